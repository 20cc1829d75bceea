"""What an evaluation found, and its form as `results.json`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .benchmark import DISTRIBUTIONS, Task
from .metrics import (
    AnswerRanks,
    FloatArray,
    bootstrap_interval,
    chance,
    per_query_metric,
    precision_at_1,
    precision_at_1_bounds,
)

VERSIONED_PACKAGES = ("torch", "transformers", "sentence-transformers")


@dataclass(frozen=True)
class TaskResult:
    """A subset and where its answers stand.

    Attributes:
        duplicates: candidates that were left out because the same content stood before them in the same list.
    """

    task: Task
    ranks: AnswerRanks
    duplicates: int = 0

    @cached_property
    def per_query(self) -> FloatArray:
        """(Q,) the subset's own metric, query by query: what a paired comparison of two models needs."""
        return per_query_metric(self.task.metric)(self.ranks)

    @property
    def score(self) -> float:
        """The subset's own metric, 0 to 1."""
        return _mean(self.per_query)

    def to_dict(self) -> dict[str, Any]:
        """The subset's entry in `results.json`; `ci95` and `chance` are of `metric`."""
        metric = per_query_metric(self.task.metric)
        pessimistic, optimistic = precision_at_1_bounds(self.ranks)
        candidates = _mean(self.ranks.candidates)
        return {
            "precision_at_1": _mean(precision_at_1(self.ranks)),
            self.task.metric: self.score,
            "metric": self.task.metric,
            "ci95": list(bootstrap_interval(self.per_query)),
            "chance": _mean(metric(chance(self.ranks))),
            "precision_at_1_bounds": [_mean(pessimistic), _mean(optimistic)],
            "n": len(self.per_query),
            "candidates": int(candidates) if candidates.is_integer() else candidates,
            "duplicates": self.duplicates,
            "meta_task": self.task.meta_task,
            "distribution": self.task.distribution,
        }


@dataclass(frozen=True)
class BenchmarkResults:
    """All subsets that were evaluated.

    Attributes:
        revision: of the data; a commit of the Hub, or a digest of local files.
        missing: subsets of the benchmark that were not evaluated; means leave them out.
    """

    model: str
    benchmark: str
    revision: str | None
    tasks: tuple[TaskResult, ...]
    missing: tuple[str, ...] = ()

    @property
    def means(self) -> dict[str, float]:
        """Plain means over subsets (not queries), as MMEB reports them; a group without any subset has no mean."""
        groups: dict[str, list[float]] = {}
        for result in self.tasks:
            groups.setdefault(result.task.meta_task, []).append(result.score)
        for distribution in DISTRIBUTIONS:
            groups[distribution] = [result.score for result in self.tasks if result.task.distribution == distribution]
        groups["overall"] = [result.score for result in self.tasks]
        return {name: _mean(scores) for name, scores in groups.items() if scores}

    def to_dict(self) -> dict[str, Any]:
        """The content of `results.json`; the same in every run on the same data, model and versions."""
        return {
            "model": self.model,
            "benchmark": self.benchmark,
            "revision": self.revision,
            "versions": package_versions(),
            "tasks": {result.task.name: result.to_dict() for result in self.tasks},
            "missing": list(self.missing),
            "means": self.means,
        }


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that decide a vector; None: not installed."""
    import llave_hf

    return {"llave_hf": llave_hf.__version__, **{package: _version(package) for package in VERSIONED_PACKAGES}}


def _mean(values: Iterable[float]) -> float:
    """The mean, rounded once: the same in every order, and 1/100 for 281 times 1/100."""
    numbers = [float(value) for value in values]
    return math.fsum(numbers) / len(numbers)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
