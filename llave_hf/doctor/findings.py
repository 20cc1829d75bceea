"""What every check is given, a recipe and its data (the patient), and what it gives back: findings, a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llave_hf.data.look.remarks import NOTE, PROBLEM
from llave_hf.data.streaming.tasks import TrainingPairs
from llave_hf.training.engines.choice import EngineChoice
from llave_hf.training.recipe.recipe import Recipe

OK = "ok"  # beside NOTE and PROBLEM, which remarks on data have, too


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        level: `"ok"`, `"note"` (worth knowing) or `"PROBLEM"` (the run would fail or waste its time).
        part: `settings`, `engine`, `data`, `loss`, `batches`, `teacher`, `model`, `disk`, `memory`,
            `negatives`, `exchange`, `time`.
    """

    level: str
    part: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8}{self.part:<10}{self.text}"


@dataclass(frozen=True)
class Patient:
    """What the checks look at.

    Args:
        fast: Look at a sample of the rows and files instead of all.
        tflops: Dense teraflops a second of one device, for the time of a step; None measures this machine's CPU.
        devices: How many will train.
        engine: What `accelerate launch` will be told; None: nothing is known.
    """

    recipe: Recipe
    dataset: TrainingPairs | None
    fast: bool
    tflops: float | None
    devices: int
    engine: EngineChoice | None = None


Check = Callable[[Patient], Iterator[Finding]]

__all__ = ["NOTE", "OK", "PROBLEM", "Check", "Finding", "Patient"]
