"""Histograms of cosines: integer counts in fixed bins, so that any order of steps and ranks sums to the same bits."""

from __future__ import annotations

import math

import torch

BINS = 1000
WIDTH = 2.0 / BINS  # cosines lie in [-1, 1]


def bin_numbers(cosines: torch.Tensor) -> torch.Tensor:
    """The bin of each cosine, as integers; what rounding puts outside [-1, 1] falls into the outer bins."""
    return ((cosines + 1) / WIDTH).nan_to_num().clamp(0, BINS - 1).long()


def centres() -> torch.Tensor:
    """`(BINS,)` float64, the middle of each bin."""
    return (torch.arange(BINS, dtype=torch.float64) + 0.5) * WIDTH - 1


def mean(counts: torch.Tensor) -> float | None:
    """Mean cosine of `(BINS,)` counts, exact to half a bin (0.001); None of nothing."""
    total = int(counts.sum())
    return float((counts.double() @ centres()) / total) if total else None


def spread(counts: torch.Tensor) -> float:
    """Standard deviation of `(BINS,)` counts; 0 of nothing."""
    total = int(counts.sum())
    if not total:
        return 0.0
    weights = counts.double() / total
    offsets = centres() - weights @ centres()
    return math.sqrt(float(weights @ offsets.square()))


def auc(positives: torch.Tensor, negatives: torch.Tensor) -> float | None:
    """Probability that a positive lies above a negative, of `(BINS,)` counts each; within a bin it is one half."""
    pairs = float(positives.sum()) * float(negatives.sum())
    if not pairs:
        return None
    ones, others = positives.double(), negatives.double()
    below = others.cumsum(0) - others / 2
    return float(ones @ below) / pairs


def overlap_bin(positives: torch.Tensor, negatives: torch.Tensor) -> int:
    """How many fine bins make one for the overlap: Scott's rule, 3.49 σ n^(-1/3), of the narrower histogram.

    Fine bins that hold one count or none overlap by chance only, which would read as well separated; wide ones would
    hide how narrow the cosines of an untrained model lie.
    """
    sizes = [int(counts.sum()) for counts in (positives, negatives)]
    narrower = min(spread(positives), spread(negatives))
    return min(BINS, max(1, round(3.49 * narrower * min(sizes) ** (-1 / 3) / WIDTH)))


def overlap(positives: torch.Tensor, negatives: torch.Tensor) -> float | None:
    """Overlap coefficient Σ min(p, n) of two histograms `(BINS,)`, each scaled to sum to 1; None where one is empty.

    0: no cosine in common; 1: the same histogram. Bins are joined, see [`overlap_bin`].
    """
    if not int(positives.sum()) or not int(negatives.sum()):
        return None
    size = overlap_bin(positives, negatives)
    one, other = (joined(counts, size).double() for counts in (positives, negatives))
    return float(torch.minimum(one / one.sum(), other / other.sum()).sum())


def joined(counts: torch.Tensor, size: int) -> torch.Tensor:
    """`(BINS,)` counts in bins that are `size` times as wide, from -1 up; the last may reach past 1."""
    padded = torch.nn.functional.pad(counts, (0, -len(counts) % size))
    return padded.view(-1, size).sum(1)
