"""Muon whose Newton-Schulz iteration runs in a dtype that the processor multiplies natively.

Muon: Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/; the arithmetic is `torch.optim.Muon`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def orthogonalise(
    update: torch.Tensor, dtype: torch.dtype, *, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """About U Vᵀ of `update` = U S Vᵀ, by a quintic Newton-Schulz iteration: singular values end near 1.

    Args:
        update: `(m, n)`, not changed.
        dtype: Of the products and of the result.
        coefficients, steps, eps: As in `torch.optim.Muon` (`ns_coefficients`, `ns_steps`, `eps`).
    """
    a, b, c = coefficients
    is_tall = update.shape[0] > update.shape[1]
    made = (update.T if is_tall else update).to(dtype)
    made = made / made.norm().clamp(min=eps)  # no singular value above 1
    for _ in range(steps):
        gram = made @ made.T
        made = torch.addmm(made, torch.addmm(gram, gram, gram, beta=b, alpha=c), made, beta=a)
    return made.T if is_tall else made


def orthogonalising_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, as `torch.optim.Muon` has it, but float32 on CPUs: few multiply bfloat16, and all get one result."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, which multiplies in bfloat16 whatever the device, with a choice of that dtype.

    A CPU without bfloat16 instructions takes 30 times as long for these products as in float32.

    Args:
        params: Matrices.
        lr, weight_decay: As in `torch.optim.Muon`; its other settings are its defaults.
        orthogonalise_dtype: Of the Newton-Schulz iteration. None: see [`orthogonalising_dtype`].
    """

    def __init__(
        self, params: Any, *, lr: float, weight_decay: float, orthogonalise_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.orthogonalise_dtype = orthogonalise_dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)
        return loss

    def _update(self, matrix: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average, momentum = state["momentum_buffer"], group["momentum"]
        average.lerp_(gradient, 1 - momentum)
        made = orthogonalise(
            gradient.lerp(average, momentum) if group["nesterov"] else average,
            self.orthogonalise_dtype or orthogonalising_dtype(matrix.device),
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        rows, columns = matrix.shape
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(made, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))
