"""Intervals and tests from resampling queries; the same numbers in every run.

All cost `resamples` x (distinct values) instead of `resamples` x (queries): how often each distinct value is drawn is
multinomial, how often it keeps its sign binomial.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .metrics import FloatArray

RESAMPLES = 10_000
SEED = 0
_DRAWN_AT_ONCE = 1 << 22  # numbers


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries.

    Values that are all equal (all right, all wrong) give an interval of no width: the percentile bootstrap says
    nothing about what it has not seen.

    Raises:
        ValueError: no values.
    """
    return _interval(bootstrap_means(values, resamples=resamples, seed=seed), confidence)


def bootstrap_interval_of_means(
    groups: Sequence[ArrayLike], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """The same of the mean over groups (subsets) of their means; queries are drawn within each group."""
    drawn = [bootstrap_means(values, resamples=resamples, seed=seed + n) for n, values in enumerate(groups)]
    return _interval(np.mean(drawn, axis=0), confidence)


def bootstrap_means(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> FloatArray:
    """`(resamples,)` means of as many values, drawn with replacement.

    Raises:
        ValueError: no values.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    n = int(counts.sum())
    if n == 0:
        raise ValueError("A bootstrap interval needs at least one query.")
    generator = np.random.default_rng(seed)
    parts = [
        generator.multinomial(n, counts / n, size=size) @ distinct / n for size in _sizes(resamples, len(distinct))
    ]
    return np.concatenate(parts)


def sign_flip_means(differences: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED) -> FloatArray:
    """`(resamples,)` mean differences if which of the two models had which score were up to a coin, query by query."""
    sizes, counts = np.unique(np.abs(np.asarray(differences, dtype=np.float64)), return_counts=True)
    generator = np.random.default_rng(seed)
    parts = [
        (2 * generator.binomial(counts, 0.5, size=(size, len(counts))) - counts) @ sizes / counts.sum()
        for size in _sizes(resamples, len(counts))
    ]
    return np.concatenate(parts)


def p_value(observed: float, by_chance: FloatArray) -> float:
    """Two-sided: how often chance alone differs at least as much. Never 0: the observation counts as a draw."""
    at_least = np.abs(by_chance) >= abs(observed) - 1e-12  # sums in another order may differ in the last bits
    return float((1 + at_least.sum()) / (1 + len(by_chance)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: calling what is below 0.05 real errs anywhere among the tests in at most 5 % of studies."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def _interval(means: FloatArray, confidence: float) -> tuple[float, float]:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def _sizes(resamples: int, distinct: int) -> Iterator[int]:
    """How many resamples to draw at once, so that memory is bounded."""
    at_once = max(1, _DRAWN_AT_ONCE // max(1, distinct))
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)
