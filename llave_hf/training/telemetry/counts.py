"""The histograms and sums that telemetry keeps: integers, which add up over steps and ranks exactly, in any order."""

from __future__ import annotations

import torch

from llave_hf.evaluation.scoring.histograms import BINS, bin_numbers

from .groups import GroupCounts
from .integers import SHARE_BINS, UNIT, add_shares, in_units
from .sample import PairSample
from .weights import PairWeights, Weighting, extremes, weigh

ROLES = ("positive", "hard", "easy")
MARGIN = 0.1

# Sums over queries.
COUNTS = (
    "queries",
    "negatives",
    "contrasted",  # queries that have a negative
    "outscoring",  # negatives above their query's positive by more than MARGIN
    "outscored",  # queries that have such a negative
    "query_pairs",
    "document_pairs",
)
AMOUNTS = (
    "gradient_negatives",
    "hardness_negatives",
    "query_cosine",
    "document_cosine",
    "masked_share",
    "hardness_strength",
)
SUMS = (*COUNTS, *AMOUNTS)


class PairCounts:
    """Counts of T tasks, and of all together as row T.

    Args:
        tasks: T.
        device: Where they are kept.
        by_group: Whether negatives of a query's own group are told from others.

    Attributes:
        flat: All of them, `(...)` int64.
        cosines: `(T + 1, 3, BINS)`, histograms of [`ROLES`].
        shares: `(1 + SHARE_BINS,)`, histogram over the negatives of all tasks of log(share of their query's
            gradient); the first bin has all under e^-64.
        sums: `(T + 1, len(SUMS))`.
        groups: By group, or None.
    """

    def __init__(self, tasks: int, device: torch.device | str = "cpu", *, by_group: bool = False) -> None:
        sizes = [(tasks + 1) * len(ROLES) * BINS, 1 + SHARE_BINS, (tasks + 1) * len(SUMS)]
        sizes.append(GroupCounts.size(tasks) if by_group else 0)
        self.tasks = tasks
        self.flat = torch.zeros(sum(sizes), dtype=torch.int64, device=device)
        cosines, self.shares, sums, groups = self.flat.split(sizes)
        self.groups = GroupCounts(groups, tasks) if by_group else None
        self.cosines = cosines.view(tasks + 1, len(ROLES), BINS)
        self.sums = sums.view(tasks + 1, len(SUMS))

    def total(self, name: str, row: int = -1) -> float:
        """One of [`SUMS`] of a task, or of all."""
        value = int(self.sums[row, SUMS.index(name)])
        return value * UNIT if name in AMOUNTS else float(value)

    def copy_row(self, other: PairCounts, row: int) -> None:
        """Takes over one task of `other`, or all together (row T)."""
        self.cosines[row].copy_(other.cosines[row])
        self.sums[row].copy_(other.sums[row])
        if row == self.tasks:
            self.shares.copy_(other.shares)
        if self.groups is not None and other.groups is not None:
            self.groups.copy_row(other.groups, row)

    def take(self, flat: torch.Tensor) -> None:
        """Takes over all counts of a state; those by group where both have them, as they come last."""
        size = min(len(flat), len(self.flat))
        self.flat.zero_()
        self.flat[:size] = flat[:size].to(self.flat.device)

    def add(
        self,
        sample: PairSample,
        weighting: Weighting,
        task_ids: torch.Tensor | int | None = None,
        masked_share: float | None = None,
    ) -> None:
        """Adds a step's pairs.

        Args:
            sample: The pairs, on the device of the counts.
            weighting: What negatives weigh.
            task_ids: `(B,)` tasks of all rows, or one for all; None counts them only among all.
            masked_share: Of the step; None takes the share that `sample` and `weighting` leave out.
        """
        above = sample.usable & (sample.similarities > (sample.positives + MARGIN)[:, None])
        weights = weigh(sample, weighting)
        rows = self._rows(sample, task_ids)
        low, high = extremes(sample.similarities, weights.usable)
        for role, values in enumerate((sample.positives[:, None], high, low)):
            self._add_cosines(values, role, rows)
        add_shares(self.shares, weights.log_shares, weights.usable)
        matrix = _sums(sample, weights, above, masked_share)
        for numbers in rows:
            self.sums.index_add_(0, numbers, matrix)
        if self.groups is not None:
            self.groups.add(sample, weights, above, rows)

    def _rows(self, sample: PairSample, task_ids: torch.Tensor | int | None) -> list[torch.Tensor]:
        """Where each sampled query counts, `(n,)` each: among all, and in its task."""
        everything = torch.full(sample.positives.shape, self.tasks, device=self.flat.device)
        if task_ids is None:
            return [everything]
        if isinstance(task_ids, int):
            return [everything, torch.full_like(everything, task_ids)]
        return [everything, task_ids.to(self.flat.device)[sample.rows].long()]

    def _add_cosines(self, values: torch.Tensor, role: int, rows: list[torch.Tensor]) -> None:
        """`values` `(n, k)`; infinite where a query has fewer, which does not count."""
        counted = values.isfinite().long().view(-1)
        for numbers in rows:
            places = (numbers[:, None] * len(ROLES) + role) * BINS + bin_numbers(values)
            self.cosines.view(-1).index_add_(0, places.view(-1), counted)


def _sums(sample: PairSample, weights: PairWeights, above: torch.Tensor, masked_share: float | None) -> torch.Tensor:
    """`(n, len(SUMS))` integers."""
    counted, others = weights.usable.sum(1), weights.usable.shape[1] - 1
    share = (others - counted).to(weights.strength.dtype) / max(others, 1)
    values = {
        "queries": torch.ones_like(counted),
        "negatives": counted,
        "contrasted": counted > 0,
        "outscoring": above.sum(1),
        "outscored": above.any(1),
        "query_pairs": sample.query_cosines[:, 1],
        "document_pairs": sample.document_cosines[:, 1],
        "gradient_negatives": weights.gradient_negatives,
        "hardness_negatives": weights.hardness_negatives,
        "query_cosine": sample.query_cosines[:, 0],
        "document_cosine": sample.document_cosines[:, 0],
        "masked_share": share if masked_share is None else torch.full_like(share, masked_share),
        "hardness_strength": weights.strength,
    }
    amounts = {name: in_units(values[name]) for name in AMOUNTS}
    return torch.stack([(values | amounts)[name].long() for name in SUMS], 1)
