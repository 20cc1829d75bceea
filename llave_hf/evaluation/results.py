"""What an evaluation found, and its form as `results.json` and `per_query.safetensors`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from llave_hf.encoding.model_identity import UNKNOWN, ModelIdentity, package_versions
from llave_hf.evaluation.benchmark.benchmark import Task, grouped
from llave_hf.evaluation.benchmark.collection import TaskInputs
from llave_hf.evaluation.benchmark.inputs import ROWS_NAMED
from llave_hf.evaluation.scoring.metrics import (
    AnswerRanks,
    FloatArray,
    chance,
    per_query_metric,
    precision_at_1,
    precision_at_1_bounds,
    without_ties,
)
from llave_hf.evaluation.scoring.nearest import Nearest
from llave_hf.evaluation.scoring.resampling import bootstrap_interval, bootstrap_interval_of_means
from llave_hf.evaluation.scoring.similarities import Similarities

PER_QUERY_FILE = "per_query.safetensors"


@dataclass(frozen=True)
class TaskResult:
    """A subset, where its answers stand, and what is nearest to its queries."""

    inputs: TaskInputs
    ranks: AnswerRanks
    nearest: Nearest

    @property
    def task(self) -> Task:
        """What the benchmark file says of the subset."""
        return self.inputs.task

    @cached_property
    def per_query(self) -> FloatArray:
        """(Q,) the subset's own metric, query by query: what a paired comparison of two models needs."""
        return per_query_metric(self.task.metric)(self.ranks)

    @cached_property
    def similarities(self) -> Similarities:
        """Cosines of answers and of hardest negatives."""
        return Similarities.of(self.nearest)

    @property
    def score(self) -> float:
        """The subset's own metric, 0 to 1."""
        return _mean(self.per_query)

    def to_dict(self) -> dict[str, Any]:
        """The entry in `results.json`; `ci95`, `chance` and `bounds` (all ties lost, all won) are of `metric`."""
        metric = per_query_metric(self.task.metric)
        pessimistic, optimistic = precision_at_1_bounds(self.ranks)
        candidates = _mean(self.ranks.candidates)
        return {
            "precision_at_1": _mean(precision_at_1(self.ranks)),
            self.task.metric: self.score,
            "metric": self.task.metric,
            "ci95": list(bootstrap_interval(self.per_query)),
            "chance": _mean(metric(chance(self.ranks))),
            "bounds": [_mean(metric(without_ties(self.ranks, won=won))) for won in (False, True)],
            "precision_at_1_bounds": [_mean(pessimistic), _mean(optimistic)],
            "n": len(self.per_query),
            "candidates": int(candidates) if candidates.is_integer() else candidates,
            "duplicates": self.inputs.duplicates,
            "findings": {name: len(rows) for name, rows in self.inputs.findings.items()},
            "finding_rows": {name: rows[:ROWS_NAMED] for name, rows in self.inputs.findings.items()},
            "similarities": self.similarities.to_dict(),
            "inputs": self.inputs.digest,
            "revision": self.inputs.revision,
            "meta_task": self.task.meta_task,
            "modality": self.task.modality,
            "distribution": self.task.distribution,
        }


@dataclass(frozen=True)
class BenchmarkResults:
    """All subsets that were evaluated.

    Attributes:
        revision: of the data; a commit of the Hub, or a digest of local files.
        identity: of the model, its weights' dtype and the prompt that it puts before inputs.
        missing: subsets of the benchmark that were not evaluated; means leave them out.
        leaderboard: whether the benchmark asks for MMEB-V2's file.
    """

    model: str
    benchmark: str
    revision: str | None
    tasks: tuple[TaskResult, ...]
    missing: tuple[str, ...] = ()
    identity: ModelIdentity = UNKNOWN
    leaderboard: bool = False

    @property
    def groups(self) -> dict[str, list[TaskResult]]:
        """The subsets of each mean: by meta-task, modality and distribution, and all; one without any is left out."""
        return grouped(self.tasks, lambda result: result.task)

    @property
    def means(self) -> dict[str, float]:
        """Plain means over subsets (not queries), as MMEB reports them."""
        return {name: _mean(result.score for result in results) for name, results in self.groups.items()}

    def to_dict(self) -> dict[str, Any]:
        """The content of `results.json`; the same in every run on the same data, model and versions."""
        return {
            "model": self.model,
            "model_revision": self.identity.revision,
            "dtype": self.identity.dtype,
            "prompt": self.identity.prompt,
            "benchmark": self.benchmark,
            "revision": self.revision,
            "versions": package_versions(),
            "tasks": {result.task.name: result.to_dict() for result in self.tasks},
            "missing": list(self.missing),
            "means": self.means,
            "means_ci95": {
                name: list(bootstrap_interval_of_means([result.per_query for result in results]))
                for name, results in self.groups.items()
            },
            "group_sizes": {name: len(results) for name, results in self.groups.items()},
        }


def write_per_query(results: BenchmarkResults, folder: Path) -> None:
    """Write each subset's metric query by query, (Q,) float64, which is what `llave compare` needs."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({result.task.name: result.per_query for result in results.tasks}, folder / PER_QUERY_FILE)


def _mean(values: Iterable[float]) -> float:
    """The mean, rounded once: the same in every order, and 1/100 for 281 times 1/100."""
    numbers = [float(value) for value in values]
    return math.fsum(numbers) / len(numbers)
