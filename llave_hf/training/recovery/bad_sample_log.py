"""Counts and names the samples that cannot be opened, over all ranks, and ends a run that has too many."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from llave_hf import distributed
from llave_hf.data.streaming.tasks import TrainingPairs
from llave_hf.errors import UserError
from llave_hf.training.recipe.arguments import LlaveTrainingArguments

from .bad_samples import failures_among, without_bad

logger = logging.get_logger(__name__)

LIST_FILE = "bad_samples.jsonl"  # of the output folder, and of each checkpoint


class BadSampleLog:
    """The bad samples of a run with `on_bad_sample: skip`; nothing otherwise.

    Args:
        args: Of the run.
        rows: Of its training data.

    Attributes:
        unusable: Samples that count as bad whether or not they open, by key, and why.
    """

    def __init__(self, args: LlaveTrainingArguments, rows: int) -> None:
        self.args = args
        self.on = args.on_bad_sample == "skip"
        self.limit = args.max_bad_samples if args.max_bad_samples is not None else max(10, rows // 100)
        self.found: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.unusable: dict[int, str] = {}

    def foretell(self, failed: Mapping[int, str], dataset: TrainingPairs) -> None:
        """Takes samples, by key, that cannot be used whatever batch they come in, and why; all ranks call it.

        Raises:
            UserError: On all ranks, where there are more than `max_bad_samples` by now.
        """
        for told in distributed.all_gather_object(dict(failed)):
            self.unusable.update(told)
        reports: list[dict[str, Any]] = []
        if self.unusable and distributed.rank() == 0:
            for pair in (dataset[index] for index in range(len(dataset))):
                without_bad(pair, failures_among([pair], self.unusable), reports)
        self.take({"bad_samples": reports}, 0)

    def take(self, inputs: dict[str, Any], step: int) -> None:
        """Takes the reports out of a batch; all ranks call it for each.

        Raises:
            UserError: On all ranks, where there are more than `max_bad_samples` by now.
        """
        reports = inputs.pop("bad_samples", [])
        if not self.on or not int(distributed.all_reduce_sum(torch.tensor(len(reports), device=self.args.device))):
            return
        before = len(self.found)
        for told in distributed.all_gather_object(reports):
            for report in told:
                self._add({"step": step, **report})
        if len(self.found) > before:
            self._write(Path(self.args.output_dir))
        if len(self.found) > self.limit:
            raise UserError(
                f"step {step}: {len(self.found)} samples cannot be used, more than max_bad_samples ({self.limit}); "
                f"they are listed in {Path(self.args.output_dir) / LIST_FILE}. Mend them, or raise max_bad_samples."
            )

    def logs(self) -> dict[str, float]:
        """For Trainer's log: how many so far."""
        return {"bad_samples": len(self.found)} if self.on else {}

    def save_state(self, checkpoint: str | os.PathLike[str]) -> None:
        """Beside the other states of a checkpoint."""
        if self.found:
            self._write(Path(checkpoint))

    def load_state(self, checkpoint: str | os.PathLike[str] | None) -> None:
        """Goes on from a checkpoint: what was found after it is forgotten, and will be found again."""
        if not self.on or checkpoint is None:
            return
        path = Path(checkpoint) / LIST_FILE
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.found = {_identity(report): report for report in map(json.loads, lines)}
        self._write(Path(self.args.output_dir))

    def _add(self, report: dict[str, Any]) -> None:
        if _identity(report) not in self.found and distributed.rank() == 0:
            what = f"its {report['role']}" if report["role"] == "negative" else f"it, for its {report['role']},"
            logger.warning(f"{report['source']}, row {report['row']}: {what} is left out: {report['reason']}")
        self.found.setdefault(_identity(report), report)

    def _write(self, folder: Path) -> None:
        if distributed.rank():
            return
        lines = [json.dumps(report, ensure_ascii=False) for report in self.found.values()]
        new = folder / f"{LIST_FILE}.new"
        new.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(new, folder / LIST_FILE)


def _identity(report: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(report[name] for name in ("source", "row", "role", "place"))
