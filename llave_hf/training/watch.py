"""What a trainer does with its telemetry: fed at each step, told at each log, kept with each checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llave_hf import distributed

from .arguments import LlaveTrainingArguments
from .telemetry import Telemetry

STATE_FILE = "telemetry.pt"  # of a checkpoint; the finished folder holds telemetry.json and no pickle


class Watch:
    """The telemetry of one run; off where `telemetry_every` is 0.

    Args:
        args: Of the run.
        tasks: Names of its tasks, in the order that batches number them.
    """

    def __init__(self, args: LlaveTrainingArguments, tasks: Sequence[str]) -> None:
        strength, mode = args.hardness_strength, args.hardness_mode
        self.settings: dict[str, float | None] = {
            "temperature": args.temperature,
            "max_weight": args.max_hardness_weight,
            "false_negative_margin": args.false_negative_margin,
            "hardness_strength": 0.0 if mode == "hard_negatives" else strength,
            "explicit_hardness_strength": 0.0 if mode == "in_batch_negatives" else strength,
        }
        self.telemetry: Telemetry | None = None
        if args.telemetry_every:
            gather = args.gather_across_devices
            self.telemetry = Telemetry(tasks, every=args.telemetry_every, gather_across_devices=gather)

    def observe(
        self,
        queries: torch.Tensor,
        documents: torch.Tensor,
        inputs: Mapping[str, Any],
        negatives: Mapping[str, torch.Tensor],
        masked_share: float | None = None,
    ) -> None:
        """A step's embeddings, `inputs` as the collator made them, and the share of pairs that the loss left out."""
        if self.telemetry is not None:
            ids = {name: inputs.get(name) for name in ("query_ids", "document_ids", "task_ids")}
            given: dict[str, Any] = {**self.settings, **ids, **negatives, "masked_share": masked_share}
            self.telemetry.observe(queries, documents, **given)

    def logs(self, step: int) -> dict[str, float]:
        """For Trainer's log; all ranks call it."""
        return self.telemetry.logs(step) if self.telemetry is not None else {}

    def finish(self, step: int, folder: str | os.PathLike[str]) -> None:
        """telemetry.json and its plots; all ranks call it."""
        if self.telemetry is not None:
            self.telemetry.logs(step)  # the steps since the last log
            self.telemetry.save(folder)

    def save_state(self, checkpoint: str | os.PathLike[str]) -> None:
        """Beside the other states of a checkpoint; all ranks call it."""
        if self.telemetry is None:
            return
        state = self.telemetry.state_dict()
        if distributed.rank() == 0:
            torch.save(state, Path(checkpoint) / STATE_FILE)

    def load_state(self, checkpoint: str | os.PathLike[str] | None) -> None:
        """Goes on from a checkpoint, if it has a state."""
        if self.telemetry is None or checkpoint is None:
            return
        path = Path(checkpoint) / STATE_FILE
        if path.exists():
            self.telemetry.load_state_dict(torch.load(path, weights_only=True))
