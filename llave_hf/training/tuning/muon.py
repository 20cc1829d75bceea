"""Muon whose Newton-Schulz iteration is shared by the ranks, in a dtype that the processor multiplies natively.

Muon: Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/; the arithmetic is `torch.optim.Muon`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from llave_hf import distributed

_AT_ONCE = 2**24  # numbers of a rank's products that are held and gathered together

Matrices = list[tuple[torch.Tensor, dict[str, Any]]]  # each with its group


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


def shares(shapes: Sequence[Sequence[int]], ranks: int) -> list[list[int]]:
    """Which matrices each rank orthogonalises, so that all have about as much to multiply: the dearest first, each to
    the rank that has the least so far.
    """
    costs = [min(shape) ** 2 * max(shape) for shape in shapes]
    given: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for index in sorted(range(len(shapes)), key=lambda index: -costs[index]):
        rank = load.index(min(load))
        given[rank].append(index)
        load[rank] += costs[index]
    return given


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, which multiplies in bfloat16 whatever the device, with a choice of that dtype.

    A CPU without bfloat16 instructions takes 30 times as long for these products as in float32. With several ranks
    each orthogonalises a part of the matrices for all, so gradients must be equal on all ranks, as DDP leaves them.
    The weights are those of one process, to the bit.

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
        for some in self._in_parts():
            for (matrix, group), made in zip(some, self._orthogonalised(some), strict=True):
                rows, columns = matrix.shape
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(made, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))
        return loss

    def _in_parts(self) -> Iterator[Matrices]:
        """All matrices that have a gradient, so many at a time as memory is meant for."""
        part: Matrices = []
        held, limit = 0, _AT_ONCE * distributed.world_size()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                if part and held + matrix.numel() > limit:
                    yield part
                    part, held = [], 0
                part.append((matrix, group))
                held += matrix.numel()
        if part:
            yield part

    def _orthogonalised(self, part: Matrices) -> list[torch.Tensor]:
        """The update of each, made on one rank and gathered."""
        for matrix, group in part:
            self._move_average(matrix, group)
        given = shares([matrix.shape for matrix, _ in part], distributed.world_size())
        own = [self._made(*part[index]) for index in given[distributed.rank()]]
        if len(given) == 1:
            return [made for _, made in sorted(zip(given[0], own, strict=True), key=lambda pair: pair[0])]
        lengths = [sum(part[index][0].numel() for index in indices) for indices in given]
        first = part[0][0]
        flat = torch.cat([made.flatten() for made in own]) if own else first.new_empty(0, dtype=self._dtype(first))
        gathered = distributed.all_gather(F.pad(flat, (0, max(lengths) - flat.numel())))
        found: dict[int, torch.Tensor] = {}
        for indices, length, row in zip(given, lengths, gathered.view(len(given), -1), strict=True):
            matrices = [part[index][0] for index in indices]
            cut = row[:length].split([matrix.numel() for matrix in matrices])
            found |= {index: piece.view_as(m) for index, piece, m in zip(indices, cut, matrices, strict=True)}
        return [found[index] for index in range(len(part))]

    def _move_average(self, matrix: torch.Tensor, group: dict[str, Any]) -> None:
        assert matrix.grad is not None  # as _in_parts gives them
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])

    def _made(self, matrix: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        assert matrix.grad is not None  # as _in_parts gives them
        average: torch.Tensor = self.state[matrix]["momentum_buffer"]
        return orthogonalise(
            matrix.grad.lerp(average, group["momentum"]) if group["nesterov"] else average,
            self._dtype(matrix),
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )

    def _dtype(self, matrix: torch.Tensor) -> torch.dtype:
        return self.orthogonalise_dtype or orthogonalising_dtype(matrix.device)
