"""Differences that a sweep's file names as those that decide: tested together, once all of their runs are finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llave_hf.evaluation.scoring.resampling import holm

from .plan import Comparison, Sweep
from .statistics import Estimate
from .summary import GroupSummary

SCORE = "overall"
LEVEL = 0.05


@dataclass(frozen=True)
class Decision:
    """A comparison that decides, and what its runs say.

    Attributes:
        difference: Of `overall`, paired by seed, 0 to 1; None while no seed is in both.
        seeds: That are planned.
        p_value: Of a paired t test, by Holm's procedure over all comparisons of its family; None until each of them
            has all its seeds.
    """

    comparison: Comparison
    reference: str
    difference: Estimate | None
    seeds: int
    p_value: float | None

    @property
    def counts(self) -> bool | None:
        """Whether it is called real; None until that is known."""
        return None if self.p_value is None else self.p_value < LEVEL


def decide(sweep: Sweep, groups: Sequence[GroupSummary]) -> list[list[Decision]]:
    """The comparisons that decide, by families, in the file's order (Holm, 1979)."""
    by_name = {entry.group.name: entry for entry in groups}
    return [_decide(family, by_name) for family in sweep.decides]


def _decide(family: Sequence[Comparison], by_name: Mapping[str, GroupSummary]) -> list[Decision]:
    found: list[tuple[Comparison, GroupSummary, Estimate | None]] = []
    for comparison in family:
        entry = by_name[comparison.group]
        of = next((of for of in entry.variants if of.variant.name == comparison.variant), None)
        found.append((comparison, entry, None if of is None else of.differences.get(SCORE)))
    raw = [
        difference.p_value if difference is not None and difference.n == len(entry.group.seeds) else None
        for _, entry, difference in found
    ]
    whole = [value for value in raw if value is not None]
    p_values: Sequence[float | None] = holm(whole) if len(whole) == len(raw) else [None] * len(raw)
    return [
        Decision(comparison, entry.group.reference, difference, len(entry.group.seeds), p_value)
        for (comparison, entry, difference), p_value in zip(found, p_values, strict=True)
    ]
