"""The time of training steps, from the batch being there to the weights being changed."""

from __future__ import annotations

import statistics
import time
from typing import Any

from rows import synchronize
from transformers import TrainerCallback


class StepTimes(TrainerCallback):
    """Takes the seconds of each step of any Trainer, without those in which its batch was made.

    Args:
        device: That is waited for.
        warm_up: Steps at the start that do not count.
    """

    def __init__(self, device: str, warm_up: int = 2) -> None:
        self.device = device
        self.warm_up = warm_up
        self.seconds: list[float] = []
        self.waited: list[float] = []  # for batches, between steps
        self._since = self._ended = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        synchronize(self.device)
        self._since = time.perf_counter()
        if self._ended:
            self.waited.append(self._since - self._ended)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        synchronize(self.device)
        self._ended = time.perf_counter()
        self.seconds.append(self._ended - self._since)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds[self.warm_up :])

    @property
    def median_wait(self) -> float:
        return statistics.median(self.waited[self.warm_up :])
