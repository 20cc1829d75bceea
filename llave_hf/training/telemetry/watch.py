"""Telemetry as part of a run: fed at each step, logged, saved in each checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llave_hf import distributed
from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss
from llave_hf.training.recipe.arguments import LlaveTrainingArguments

from .hardness import Judge
from .telemetry import Telemetry

SEEN = (
    "query_embeddings",
    "document_embeddings",
    "negative_embeddings",
    "query_ids",
    "document_ids",
    "negative_ids",
    "negative_mask",
    "task_ids",
    "labels",
)
ROLES = {"queries": "query", "documents": "document", "negatives": "negative"}
STATE_FILE = "telemetry.pt"  # of a checkpoint; the finished folder holds telemetry.json and no pickle


class Watch:
    """The telemetry of one run; off where `telemetry_every` is 0.

    Args:
        args: Of the run.
        tasks: Names of its tasks, in the order that batches number them.
    """

    def __init__(self, args: LlaveTrainingArguments, tasks: Sequence[str]) -> None:
        self.weighs_in_batch = args.hardness_mode != "hard_negatives"
        self.weighs_explicit = args.hardness_mode != "in_batch_negatives"
        self.settings: dict[str, Any] = {
            "max_weight": args.max_hardness_weight,
            "false_negative_margin": args.false_negative_margin,
            "margin_strategy": args.margin_strategy,
            "relative": args.hardness_reference == "positive",
            "focal_margin": args.focal_margin,
            "teacher_margin": args.teacher_margin,
        }
        self.source = args.hardness_source
        self.telemetry: Telemetry | None = None
        if args.telemetry_every:
            gather = args.gather_across_devices
            self.telemetry = Telemetry(
                tasks, every=args.telemetry_every, gather_across_devices=gather, by_group=args.batch_groups
            )

    def observe(
        self,
        given: Mapping[str, Any],
        loss: HardnessWeightedContrastiveLoss,
        group_ids: torch.Tensor | None = None,
    ) -> None:
        """A step's embeddings and whatever else its loss was given, by the names of the loss's arguments.

        `group_ids` `(B,)` are the rows' mined groups, which are nothing to the loss.
        """
        if self.telemetry is None:
            return
        seen = {name: given[name] for name in SEEN if name in given}
        strength = given["hardness_strength"]
        temperature: Any = loss.temperature
        if isinstance(temperature, tuple):
            task_ids = given["task_ids"]
            temperature = torch.tensor(temperature, device=task_ids.device)[task_ids]
        self.telemetry.observe(
            **seen,
            **self.settings,
            temperature=temperature,
            hardness_strength=strength if self.weighs_in_batch else 0.0,
            explicit_hardness_strength=strength if self.weighs_explicit else 0.0,
            masked_share=loss.statistics.masked_share if loss.statistics is not None else None,
            judge=None if self.source == "self" else judge_of(given, self.source),
            teacher=judge_of(given, "teacher") if self.settings["teacher_margin"] is not None else None,
            group_ids=group_ids,
        )

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


def judge_of(given: Mapping[str, Any], source: str) -> Judge:
    """Whose word on hardness the loss took. (A teacher may be there for margins or grades alone.)"""
    if source == "column":
        return Judge(**{name: given.get(name) for name in ("document_hardness", "negative_hardness")})
    vectors = {role: given.get(f"teacher_{name}_embeddings") for role, name in ROLES.items()}
    return Judge(**vectors)
