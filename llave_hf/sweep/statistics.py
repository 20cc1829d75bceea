"""Means over seeds, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.stats import chi2, norm  # type: ignore[import-untyped]
from scipy.stats import t as student

CONFIDENCE = 0.95
POWER = 0.8
_STEPS = 4000


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

    @property
    def p_value(self) -> float | None:
        """Of Student's two-sided t test that the true mean is 0; None for a single number."""
        if self.margin is None:
            return None
        if not self.margin:  # all numbers are equal
            return float(self.mean == 0)
        return float(2 * student.sf(abs(self.mean) / self.margin * _quantile(self.n), self.n - 1))

    @property
    def detectable(self) -> float | None:
        """The smallest true mean that as many numbers, scattered as these are, would show in 8 of 10 trials.

        To show is to have an interval without 0. Of a few numbers the spread is itself uncertain, and so is this.
        """
        if self.margin is None:
            return None
        quantile = _quantile(self.n)
        return self.margin / quantile * _shift_that_shows(self.n, quantile)


def _quantile(n: int) -> float:
    """Standard errors in half of an interval of n numbers."""
    return float(student.ppf((1 + CONFIDENCE) / 2, n - 1))


def _shift_that_shows(n: int, quantile: float) -> float:
    """Where the noncentral t distribution lies beyond the quantile, either side, `POWER` of the time; standard errors.

    By averaging the normal distribution over the spreads of n numbers; scipy's `nct` gives no number far out.
    """
    spread = np.sqrt(chi2.ppf((np.arange(_STEPS) + 0.5) / _STEPS, n - 1) / (n - 1))

    def missing(shift: float) -> float:
        return float(np.mean(norm.cdf(shift - quantile * spread) + norm.cdf(-shift - quantile * spread))) - POWER

    return float(brentq(missing, 0.0, 10 * quantile))


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and Student's t interval: of a few seeds the spread is hardly known, and the interval says so."""
    n = len(values)
    if n < 2:
        return Estimate(fmean(values), None, n)
    return Estimate(fmean(values), _quantile(n) * stdev(values) / math.sqrt(n), n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """Of the seeds that both have: the same initial weights and order of the data, so that much of the noise cancels.

    Args:
        values, reference: By seed.

    Returns:
        The mean difference, or None where no seed is in both.
    """
    differences = [values[seed] - reference[seed] for seed in values if seed in reference]
    return estimate(differences) if differences else None
