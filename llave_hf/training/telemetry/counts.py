"""The histograms and sums that telemetry keeps: integers, which add up over steps and ranks exactly, in any order."""

from __future__ import annotations

import torch

from llave_hf.evaluation.scoring.histograms import BINS, bin_numbers

from .sample import PairSample
from .weights import PairWeights, Weighting, extremes, weigh

ROLES = ("positive", "hard", "easy")
MARGIN = 0.1

# Log of a pair's share of its query's gradient: 16 bins for each factor of e, from e^-64, under which nothing counts.
SHARE_FLOOR, SHARE_BINS_PER_UNIT = -64, 16
SHARE_BINS = -SHARE_FLOOR * SHARE_BINS_PER_UNIT

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
UNIT = 2.0**-20  # of amounts


class PairCounts:
    """Counts of T tasks, and of all together as row T.

    Attributes:
        flat: All of them, `(...)` int64.
        cosines: `(T + 1, 3, BINS)`, histograms of [`ROLES`].
        shares: `(1 + SHARE_BINS,)`, histogram over the negatives of all tasks of log(share of their query's
            gradient); the first bin has all under e^-64.
        sums: `(T + 1, len(SUMS))`.
    """

    def __init__(self, tasks: int, device: torch.device | str = "cpu") -> None:
        sizes = [(tasks + 1) * len(ROLES) * BINS, 1 + SHARE_BINS, (tasks + 1) * len(SUMS)]
        self.tasks = tasks
        self.flat = torch.zeros(sum(sizes), dtype=torch.int64, device=device)
        cosines, self.shares, sums = self.flat.split(sizes)
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
        usable = weighting.counted(sample)
        weights = weigh(sample, usable, weighting)
        rows = self._rows(sample, task_ids)
        low, high = extremes(sample.similarities, usable)
        for role, values in enumerate((sample.positives[:, None], high, low)):
            self._add_cosines(values, role, rows)
        self._add_shares(weights.log_shares, usable)
        matrix = _sums(sample, weights, usable, above, masked_share)
        for numbers in rows:
            self.sums.index_add_(0, numbers, matrix)

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

    def _add_shares(self, log_shares: torch.Tensor, usable: torch.Tensor) -> None:
        places = ((log_shares - SHARE_FLOOR) * SHARE_BINS_PER_UNIT).nan_to_num(-1.0).floor_().add_(1)
        places = places.clamp_(0, SHARE_BINS).long()
        self.shares.index_add_(0, places.view(-1), usable.long().view(-1))


def _sums(
    sample: PairSample, weights: PairWeights, usable: torch.Tensor, above: torch.Tensor, masked_share: float | None
) -> torch.Tensor:
    """`(n, len(SUMS))` integers."""
    counted, others = usable.sum(1), usable.shape[1] - 1
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
    amounts = {name: (values[name].nan_to_num(0.0) / UNIT).round() for name in AMOUNTS}
    return torch.stack([(values | amounts)[name].long() for name in SUMS], 1)


def top_share(shares: torch.Tensor, part: float = 0.01) -> float | None:
    """Share of the gradient that falls on the top `part` of the negatives, of [`PairCounts.shares`]; None of none.

    A bin that is taken in part gives its part.
    """
    counts = shares.double().flip(0)
    pairs = float(counts.sum())
    logs = torch.arange(SHARE_BINS, -1, -1, dtype=torch.float64, device=shares.device)
    sizes = ((logs - 0.5) / SHARE_BINS_PER_UNIT + SHARE_FLOOR).exp()
    sizes[-1] = 0  # under the floor
    whole = float(counts @ sizes)
    if not whole:
        return None
    room = (part * pairs - (counts.cumsum(0) - counts)).clamp(min=0)
    return float(torch.minimum(counts, room) @ sizes) / whole
