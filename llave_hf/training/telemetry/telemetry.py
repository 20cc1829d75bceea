"""Telemetry of contrastive training: how far positives lie above hard negatives, and what the gradient rests on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.utils import logging

from llave_hf import distributed

from .counts import PairCounts
from .groups import KINDS
from .hardness import Judge
from .report import summary, write_report
from .sample import gather, sample_pairs
from .warnings import findings
from .weights import Weighting

logger = logging.get_logger(__name__)

ENOUGH_POSITIVES = 200  # of a task, before its numbers are told

# What goes into Trainer's log; the history has more.
LOGGED = (
    "gap_hard",
    "gap_easy",
    "overlap",
    "auc",
    "effective_negatives",
    "gradient_negatives",
    "gradient_top1",
    "outscored",
    "random_cosine",
    "masked_share",
)
LOGGED_BY_GROUP = (
    "group_gradient_share",
    *(f"{name}_{kind}" for name in ("masked_share", "effective_negatives", "gradient_top1") for kind in KINDS),
    "outscored_own_group",
)


class Telemetry:
    """Looks at some pairs of every step, without gradient, and tells of them at every log.

    Of each step, up to 128 queries (every k-th of the global batch, fewer in very large batches, whatever the number
    of ranks) are held against all documents: their positive, their five highest (hard) and five lowest (easy)
    negatives, as in the paper's Table 1. Equal content and masked pairs are no negatives. All is kept as integers, so
    that ranks, and a resumed run, come to the same bits. A stretch is what lies between two logs; a task's goes on
    over logs until it has 200 positives.

    Args:
        tasks: Names of the tasks that `observe` gets numbers of; empty: nothing is told by task.
        every: Looks at every k-th step only.
        gather_across_devices: As the loss: whether documents of all ranks are candidates.
        gradient_accumulation_steps: Of the run, for a warning.
        by_group: Whether batches are made of mined groups, and negatives of a query's own group are told from others.

    Attributes:
        history: What was found at each log, oldest first.
        told: Warnings given so far, by name.
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
        *,
        every: int = 1,
        gather_across_devices: bool = True,
        gradient_accumulation_steps: int = 1,
        by_group: bool = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1.")
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"tasks has a name twice: {', '.join(tasks)}.")
        self.tasks = tuple(tasks)
        self.every = every
        self.gather_across_devices = gather_across_devices
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.by_group = by_group
        self.steps = 0
        self.history: list[dict[str, Any]] = []
        self.told: dict[str, str] = {}
        self._open = self._nothing()  # of this rank, since the last log
        self._first = self._nothing()  # of all ranks, the first stretch told and the latest
        self._latest = self._nothing()

    @torch.no_grad()
    def observe(
        self,
        query_embeddings: torch.Tensor,
        document_embeddings: torch.Tensor,
        *,
        temperature: float | torch.Tensor,
        hardness_strength: float | torch.Tensor = 0.0,
        explicit_hardness_strength: float | torch.Tensor = 0.0,
        max_weight: float | None = None,
        false_negative_margin: float | None = None,
        task_ids: torch.Tensor | int | None = None,
        query_ids: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        negative_embeddings: torch.Tensor | None = None,
        negative_ids: torch.Tensor | None = None,
        negative_mask: torch.Tensor | None = None,
        masked_share: float | None = None,
        judge: Judge | None = None,
        margin_strategy: str = "absolute",
        relative: bool = False,
        focal_margin: float | None = None,
        labels: torch.Tensor | None = None,
        teacher: Judge | None = None,
        teacher_margin: float | None = None,
        group_ids: torch.Tensor | None = None,
    ) -> None:
        """Counts a step's pairs. With several ranks, all of them call it.

        Args:
            query_embeddings, document_embeddings: `(B, D)` of this rank, L2-normalised; row i belongs to row i.
            temperature: τ, or `(B,)`.
            hardness_strength: α of in-batch negatives, or `(B,)`.
            explicit_hardness_strength: The same of a row's own explicit negatives.
            max_weight: Cap of e^(αh).
            false_negative_margin: The loss masks negatives above their positive by more than this.
            task_ids: `(B,)`, or one number for the whole batch: places in `tasks`.
            query_ids, document_ids: `(B,)`: where they are equal, content is, and a pair is no negative.
            negative_embeddings, negative_ids, negative_mask: `(B, K, D)`, `(B, K)`, `(B, K)` as the loss gets them;
                each query has its own only.
            masked_share: Of this step, from the loss; None: as the ids and the margin here have it.
            judge: Says how hard negatives are; None: the model's own cosines.
            margin_strategy, relative, focal_margin, teacher_margin: See [`Weighting`].
            labels: `(B,)` integers: pairs with equal labels are no negatives. Below 0: unknown.
            teacher: Whose cosines `teacher_margin` is of.
            group_ids: `(B,)` mined groups, numbers of a row's task; below 0: in none. Only looked at with `by_group`.
        """
        self.steps += 1
        if (self.steps - 1) % self.every or not len(query_embeddings):
            return
        device = query_embeddings.device
        self._check_tasks(task_ids, len(query_embeddings))
        self._to(device)
        dtype = torch.promote_types(query_embeddings.dtype, torch.float32)
        queries, documents = query_embeddings.detach().to(dtype), document_embeddings.detach().to(dtype)
        negatives = None if negative_embeddings is None else negative_embeddings.detach().to(dtype)
        with torch.autocast(device.type, enabled=False):
            groups = self._groups(group_ids, task_ids)
            whole = gather(
                queries, documents, query_ids, document_ids, self.gather_across_devices, labels=labels, groups=groups
            )
            sample = sample_pairs(queries, documents, whole, negatives, negative_ids, negative_mask)
            if judge is not None:
                hardness = judge.hardness(sample.rows, sample.explicit, self.gather_across_devices)
                sample = replace(sample, hardness=hardness, references=judge.references(sample.rows))
            if teacher is not None:
                cosines = teacher.hardness(sample.rows, sample.explicit, self.gather_across_devices)
                sample = replace(sample, teacher=cosines, teacher_positives=teacher.references(sample.rows))
            weighting = Weighting(
                temperature,
                hardness_strength,
                explicit_hardness_strength,
                max_weight,
                false_negative_margin,
                margin_strategy,
                relative,
                focal_margin,
                teacher_margin,
            )
            self._open.add(sample, weighting, task_ids, masked_share)

    def logs(self, step: int) -> dict[str, float]:
        """What was found since the last call, for Trainer's log; empty where nothing was observed.

        With several ranks all of them call it, and all get the same. Gives each warning once.
        """
        merged = self._nothing()
        merged.flat.copy_(distributed.all_reduce_sum(self._open.flat))
        if not merged.total("queries"):
            return {}
        entry: dict[str, Any] = {"step": step, **summary(merged), "overlap_by_task": {}}
        for row, task in enumerate(self.tasks):
            if merged.total("queries", row) >= ENOUGH_POSITIVES:
                self._close(merged, row)
                entry["overlap_by_task"][task] = summary(merged, row)["overlap"]
        self._close(merged, len(self.tasks))
        self.history.append(entry)
        self._warn()
        told = {name: entry[name] for name in (*LOGGED, *(LOGGED_BY_GROUP if self.by_group else ()))}
        told |= {f"overlap_{task}": value for task, value in entry["overlap_by_task"].items()}
        return {name: value for name, value in told.items() if value is not None}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes telemetry.json and its plots, of the stretches told so far; only on the first rank.

        Call [`logs`] before it to have the steps since the last log in it.
        """
        if distributed.rank() == 0 and self.history:
            write_report(folder, self.tasks, self._first, self._latest, self.history, self.told)

    def state(self) -> torch.Tensor:
        """This rank's open counts, int64; those of several ranks add up to those of one on the whole batch."""
        return self._open.flat.clone()

    def merge(self, state: torch.Tensor) -> None:
        """Adds another's [`state`]."""
        if state.shape != self._open.flat.shape:
            raise ValueError(f"the state has {state.numel()} counts, this telemetry {self._open.flat.numel()}.")
        self._open.flat += state.to(self._open.flat.device)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, on any number of ranks; all ranks call it, one saves it."""
        return {
            "tasks": list(self.tasks),
            "steps": self.steps,
            "open": distributed.all_reduce_sum(self._open.flat).cpu(),
            "first": self._first.flat.clone(),
            "latest": self._latest.flat.clone(),
            "history": [dict(entry) for entry in self.history],
            "told": dict(self.told),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from [`state_dict`]; every rank calls it.

        Raises:
            ValueError: The state is of other tasks.
        """
        if tuple(state["tasks"]) != self.tasks:
            raise ValueError(
                f"the telemetry of the checkpoint is of the tasks {', '.join(state['tasks'])}, this run has "
                f"{', '.join(self.tasks)}; resume with the data of the checkpoint."
            )
        self.steps = state["steps"]
        self._open.flat.zero_()
        if distributed.rank() == 0:  # the counts of all ranks; what matters is their sum
            self._open.take(state["open"])
        self._first.take(state["first"])
        self._latest.take(state["latest"])
        self.history = [dict(entry) for entry in state["history"]]
        self.told = dict(state["told"])

    def _close(self, merged: PairCounts, row: int) -> None:
        """Ends the stretch of a task or of all together."""
        if not self._first.total("queries", row):
            self._first.copy_row(merged, row)
        self._latest.copy_row(merged, row)
        self._open.copy_row(self._nothing(), row)

    def _warn(self) -> None:
        found = findings(self.history, gradient_accumulation_steps=self.gradient_accumulation_steps)
        for name, message in found.items():
            if name not in self.told:
                self.told[name] = message
                if distributed.rank() == 0:
                    logger.warning(f"step {self.history[-1]['step']}: {message}")

    def _check_tasks(self, task_ids: torch.Tensor | int | None, size: int) -> None:
        if isinstance(task_ids, int) and not 0 <= task_ids < len(self.tasks):
            raise ValueError(f"task {task_ids} is none of the {len(self.tasks)} tasks of this telemetry.")
        if isinstance(task_ids, torch.Tensor) and task_ids.shape != (size,):
            raise ValueError(f"task_ids have shape {tuple(task_ids.shape)}; give a number for each of {size} queries.")

    def _nothing(self, device: torch.device | str = "cpu") -> PairCounts:
        return PairCounts(len(self.tasks), device, by_group=self.by_group)

    def _groups(self, group_ids: torch.Tensor | None, task_ids: torch.Tensor | int | None) -> torch.Tensor | None:
        """`(B, 2)` group and task of each row."""
        if not self.by_group or group_ids is None:
            return None
        tasks = task_ids if isinstance(task_ids, torch.Tensor) else torch.full_like(group_ids, task_ids or 0)
        return torch.stack([group_ids, tasks.to(group_ids)], 1)

    def _to(self, device: torch.device) -> None:
        """The open counts, to where the embeddings are: a step waits for no copy to the CPU."""
        if self._open.flat.device != device:
            moved = self._nothing(device)
            moved.flat.copy_(self._open.flat)
            self._open = moved
