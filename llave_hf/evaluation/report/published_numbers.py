"""Numbers that papers report on the bundled benchmarks, from `published_numbers.yaml`; none was measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class PublishedNumbers:
    """Of one benchmark; in percent, as printed.

    Attributes:
        means: by model, then by group of subsets.
        counts: how many subsets each group has.
        columns: the models that have numbers of single subsets.
        tasks: by subset, a number for each column.
        sources: where the numbers stand, a sentence each.
    """

    means: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    tasks: Mapping[str, list[float]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def mean(self, model: str, group: str, subsets: int) -> float | None:
        """A published mean; None where there is none, or it is of another number of subsets than ours."""
        return self.means[model].get(group) if self.counts.get(group) == subsets else None

    def of_subset(self, name: str) -> list[float | None]:
        """A number for each column."""
        return [*self.tasks.get(name, [None] * len(self.columns))]


def published_numbers(benchmark: str) -> PublishedNumbers:
    """Of the benchmark of this name; empty for others."""
    content = _content()
    entry = content["benchmarks"].get(benchmark)
    if entry is None:
        return PublishedNumbers()
    base = published_numbers(entry["extends"]) if "extends" in entry else PublishedNumbers()
    names = entry.get("rename", {})
    means = {
        model: {names.get(group, group): mean for group, mean in own.items()} for model, own in base.means.items()
    }
    sources = set(base.sources)
    for model, found in entry.get("means", {}).items():
        sources |= {content["sources"][found["source"]]} if "source" in found else set()
        own = {group: mean for group, mean in found.items() if group != "source"}
        means[model] = {**means.get(model, {}), **own}
    counts = {names.get(group, group): size for group, size in base.counts.items()} | entry.get("counts", {})
    return PublishedNumbers(
        means=means,
        counts=counts,
        columns=tuple(entry.get("columns", base.columns)),
        tasks=entry.get("tasks", base.tasks),
        sources=tuple(sorted(sources)),
    )


@cache
def _content() -> dict[str, Any]:
    text = files("llave_hf.evaluation.report").joinpath("published_numbers.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content
