"""How numbers are spread, in four of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The smallest of some numbers, the middle one, the one that 95 % do not exceed, and the largest.

    Each is one of the numbers, so nothing is interpolated.
    """

    least: int
    median: int
    most_95: int
    most: int

    @classmethod
    def of(cls, numbers: np.ndarray | Sequence[int]) -> Spread | None:
        """Of `(n,)` integers; None where there are none."""
        if len(numbers) == 0:
            return None
        values = np.quantile(np.asarray(numbers), [0, 0.5, 0.95, 1], method="inverted_cdf")
        return cls(*map(int, values))


def evenly(count: int, most: int) -> np.ndarray:
    """`most` of the numbers from 0 to `count` - 1, ascending and evenly spaced, or all where they are fewer."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most, dtype=np.int64)


def in_runs(count: int, most: int, runs: int = 4) -> np.ndarray:
    """`most` of the numbers from 0 to `count` - 1, ascending, as evenly spaced runs of neighbours."""
    if count <= most:
        return np.arange(count)
    size = -(-most // runs)
    starts = evenly(count - size + 1, runs)
    return np.unique(starts[:, None] + np.arange(size))[:most]
