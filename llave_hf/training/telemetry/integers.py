"""Real numbers as integers, which add up over steps and ranks exactly: sums in units, shares of a gradient in bins."""

from __future__ import annotations

import torch

UNIT = 2.0**-20

# Log of a pair's share of its query's gradient: 16 bins for each factor of e, from e^-64, under which nothing counts.
SHARE_FLOOR, SHARE_BINS_PER_UNIT = -64, 16
SHARE_BINS = -SHARE_FLOOR * SHARE_BINS_PER_UNIT


def in_units(values: torch.Tensor) -> torch.Tensor:
    """Values as int64 counts of units; NaN is 0."""
    return (values.nan_to_num(0.0) / UNIT).round().long()


def add_shares(histogram: torch.Tensor, log_shares: torch.Tensor, counted: torch.Tensor) -> None:
    """Adds pairs to a histogram of log(share of their query's gradient).

    Args:
        histogram: `(1 + SHARE_BINS,)` int64; the first bin has all under e^-64.
        log_shares: `(n, C)`.
        counted: `(n, C)`, the pairs to add.
    """
    places = ((log_shares - SHARE_FLOOR) * SHARE_BINS_PER_UNIT).nan_to_num(-1.0).floor_().add_(1)
    places = places.clamp_(0, SHARE_BINS).long()
    histogram.index_add_(0, places.view(-1), counted.long().view(-1))


def top_share(shares: torch.Tensor, part: float = 0.01) -> float | None:
    """Share of the gradient that falls on the top `part` of the negatives, of such a histogram; None of none.

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
