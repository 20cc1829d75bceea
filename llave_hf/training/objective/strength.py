"""The hardness strength α at each step: constant, by task, warmed up, or steered to so many effective negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llave_hf.losses.effective import EffectiveNegatives, LossStatistics
from llave_hf.training.recipe.arguments import LlaveTrainingArguments


class HardnessStrength:
    """α of each row of a batch.

    Args:
        args: `hardness_strength`, `hardness_strength_by_task`, `hardness_warmup_steps`, `effective_negatives`.
        tasks: Names of the tasks, in the order of their numbers.
    """

    def __init__(self, args: LlaveTrainingArguments, tasks: Sequence[str]) -> None:
        self.constant = args.hardness_strength
        self.by_task = by_task(args.hardness_strength_by_task, args.hardness_strength, tasks, "hardness_strength")
        self.warmup = args.hardness_warmup_steps
        self.steering: EffectiveNegatives | None = None
        if args.effective_negatives is not None:
            self.steering = EffectiveNegatives(args.effective_negatives, strength=args.hardness_strength)

    def at(self, step: int, total_steps: int, task_ids: torch.Tensor | None) -> float | torch.Tensor:
        """α, or `(B,)` where tasks differ.

        Args:
            step: Optimizer steps done.
            total_steps: Of the run; a warm-up below 1 is a share of it.
            task_ids: `(B,)`.
        """
        warmup = self.warmup * total_steps if self.warmup < 1 else self.warmup
        factor = min(1.0, step / warmup) if warmup else 1.0
        if self.by_task is not None:
            assert task_ids is not None
            return factor * torch.tensor(self.by_task, device=task_ids.device)[task_ids]
        return factor * (self.constant if self.steering is None else self.steering.strength)

    def learn(self, statistics: LossStatistics | None) -> None:
        """Steers by what the last step found."""
        if self.steering is not None and statistics is not None:
            self.steering.update(statistics)

    @property
    def varies(self) -> bool:
        """Whether α is not one number throughout."""
        return bool(self.warmup) or self.by_task is not None or self.steering is not None

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {} if self.steering is None else self.steering.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from [`state_dict`]."""
        if self.steering is not None and state:
            self.steering.load_state_dict(state)


def by_task(
    given: dict[str, float] | None, default: float, tasks: Sequence[str], what: str
) -> tuple[float, ...] | None:
    """A number for each task; None where none is given by task.

    Raises:
        ValueError: A name is no task's.
    """
    if given is None:
        return None
    unknown = sorted(set(given) - set(tasks))
    if unknown:
        raise ValueError(f"{what}_by_task names {', '.join(unknown)}; the tasks are {', '.join(tasks)}.")
    return tuple(float(given.get(task, default)) for task in tasks)
