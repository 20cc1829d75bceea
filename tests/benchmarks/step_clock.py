"""Where the time of a training step goes, by hooks on the same modules of both libraries."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from llave_hf import LlaveModel

PHASES = ("data", "vision tower", "language model", "loss", "optimizer", "rest")


class Clock(TrainerCallback):
    """Where the time of `train()` goes: each event says what begins now. Starts and ends with the training loop."""

    def __init__(self) -> None:
        self.now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self.spent: Counter[str] = Counter()
        self.phase, self.since = "rest", 0.0

    def enter(self, phase: str) -> None:
        now = self.now()
        self.spent[self.phase] += now - self.since
        self.phase, self.since = phase, now

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            made = function(*args, **kwargs)
            self.enter("rest")
            return made

        return timed

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.spent.clear()
        self.phase, self.since = "rest", self.now()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.enter("optimizer")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.enter("rest")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.enter("rest")  # what follows the last step is not counted

    def watch(self, model: LlaveModel) -> None:
        """Forward and backward of the tower (with its projector) and of the language model."""
        backbone = model.backbone

        def before_text(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            embeds = kwargs["inputs_embeds"]
            after = "vision tower" if self.phase == "vision tower" else "rest"  # is there a picture behind it?
            self.enter("language model")
            if embeds.requires_grad:
                embeds.register_hook(lambda gradient: self.enter(after))

        def after_text(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            self.enter("language model" if kwargs.get("use_cache") else "rest")  # a shared prefix, within the other
            if output.last_hidden_state.requires_grad:
                output.last_hidden_state.register_hook(lambda gradient: self.enter("language model"))

        backbone.vision_tower.register_forward_pre_hook(lambda *_: self.enter("vision tower"))
        backbone.language_model.register_forward_pre_hook(before_text, with_kwargs=True)
        backbone.language_model.register_forward_hook(after_text, with_kwargs=True)
