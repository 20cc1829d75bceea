"""Means over seeds, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student  # type: ignore[import-untyped]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean of n numbers.

    Attributes:
        margin: Half the width of its interval; None for a single number, which says nothing of how it varies.
    """

    mean: float
    margin: float | None
    n: int

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.margin is not None and abs(self.mean) > self.margin


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and Student's t interval: of a few seeds the spread is hardly known, and the interval says so."""
    n = len(values)
    if n < 2:
        return Estimate(fmean(values), None, n)
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, n - 1))
    return Estimate(fmean(values), quantile * stdev(values) / math.sqrt(n), n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """Of the seeds that both have: the same initial weights and order of the data, so that much of the noise cancels.

    Args:
        values, reference: By seed.

    Returns:
        The mean difference, or None where no seed is in both.
    """
    differences = [values[seed] - reference[seed] for seed in values if seed in reference]
    return estimate(differences) if differences else None
