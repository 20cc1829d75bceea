"""The temperature τ: fixed or learned, one for all pairs or one a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from llave_hf import distributed

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0


class Temperature(nn.Module):
    """1/τ of each row.

    Learned, the parameter is log τ, `(1,)` or `(tasks,)`. Before each training step it is put back *in place* into
    [0.01, 1] (CLIP's limit of 100 on 1/τ): a clamp inside the graph would have no gradient to come back by. Its
    gradient is the mean over ranks already, the same on all, so that it is right within DDP and outside.

    Args:
        temperature: τ, or one for each task.
        learnable: Whether it is a parameter.
    """

    def __init__(self, temperature: float | Sequence[float], learnable: bool) -> None:
        super().__init__()
        values = [float(temperature)] if isinstance(temperature, (int, float)) else [float(x) for x in temperature]
        if not values or min(values) <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive (LLaVE: 0.02).")
        if learnable and not MIN_TEMPERATURE <= min(values) <= max(values) <= MAX_TEMPERATURE:
            raise ValueError(
                f"temperature is {temperature}; a learnable one starts within {MIN_TEMPERATURE} and {MAX_TEMPERATURE}."
            )
        self.fixed = None if learnable else tuple(values)
        self.per_task = not isinstance(temperature, (int, float))
        self.log_temperature = nn.Parameter(torch.tensor(values).log()) if learnable else None

    @property
    def values(self) -> tuple[float, ...]:
        """τ of each task, or the only one."""
        if self.log_temperature is None:
            assert self.fixed is not None
            return self.fixed
        return tuple(self.log_temperature.detach().exp().tolist())

    def scales(self, rows: int, task_ids: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """1/τ of each row `(B,)`, in the type and place of `like`.

        Raises:
            ValueError: Temperatures differ by task and `task_ids` are missing or out of range.
        """
        if self.log_temperature is None:
            assert self.fixed is not None
            scales = torch.tensor([1.0 / value for value in self.fixed], dtype=like.dtype, device=like.device)
        else:
            if self.training:
                with torch.no_grad():
                    self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
            log_temperature = _MeanGradient.apply(self.log_temperature)
            scales = torch.exp(-log_temperature.to(dtype=like.dtype, device=like.device))
        if not self.per_task:
            return scales.expand(rows)
        if task_ids is None or task_ids.shape != (rows,):
            raise ValueError(
                f"there is a temperature for each of {len(scales)} tasks: give task_ids of shape ({rows},), not "
                f"{None if task_ids is None else tuple(task_ids.shape)}."
            )
        if not bool(((task_ids >= 0) & (task_ids < len(scales))).all()):
            raise ValueError(
                f"task_ids run from {int(task_ids.min())} to {int(task_ids.max())}; there are {len(scales)} "
                "temperatures, one a task from 0."
            )
        return scales[task_ids]


class _MeanGradient(torch.autograd.Function):
    """The identity; backward, the mean of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, parameter: torch.Tensor) -> torch.Tensor:
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return distributed.all_reduce_sum(gradient) / distributed.world_size()
