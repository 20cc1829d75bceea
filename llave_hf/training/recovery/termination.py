"""SIGTERM, by which a cluster says that it takes a machine back: the run writes a checkpoint and ends.

Trainer's own `enable_jit_checkpoint` asks no other rank, so that one would wait for the rest forever, and marks a
checkpoint's place before the checkpoint is whole.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llave_hf import distributed


class Termination(TrainerCallback):
    """After the step in which any rank got the signal, all ranks write a checkpoint and stop.

    Attributes:
        stopped_at: The step; None while nobody asked.
    """

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self._is_asked = self._all_know = False
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if threading.current_thread() is threading.main_thread():  # others may not
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._all_know = self._is_asked
        if distributed.world_size() > 1:  # here, where the gradient's norm has made all wait already
            self._all_know = bool(distributed.all_reduce_sum(torch.tensor(int(self._is_asked), device=args.device)))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._all_know:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _ask(self, *_: Any) -> None:
        """Again and again does no more: Slurm tells each process, and a launcher its ranks."""
        self._is_asked = True
