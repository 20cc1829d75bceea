"""Which rank takes which rows of a global batch, so that no rank waits long for another."""

from __future__ import annotations

import numpy as np


def deal_to_ranks(batches: np.ndarray, tokens: np.ndarray, world_size: int) -> np.ndarray:
    """Orders the rows of each global batch so that its W equal parts have nearly the same number of tokens.

    From the longest rows down, each rank gets one of the next W rows, the longest of them the rank with the fewest
    tokens so far.

    >>> deal_to_ranks(np.array([[0, 1, 2, 3]]), np.array([10, 20, 900, 905]), world_size=2)
    array([[3, 0, 2, 1]])

    Args:
        batches: `(batches, N)` rows.
        tokens: `(rows,)` tokens of each row.
        world_size: W, which divides N.

    Returns:
        `(batches, N)`, each row with the same entries; rank r takes the r-th of W parts.
    """
    if world_size == 1:
        return batches
    count, size = batches.shape
    longest_first = np.argsort(-tokens[batches], axis=1, kind="stable")
    rounds = np.take_along_axis(batches, longest_first, axis=1).reshape(count, size // world_size, world_size)
    dealt = np.empty((count, world_size, size // world_size), dtype=batches.dtype)
    load = np.zeros((count, world_size), dtype=np.int64)
    for number in range(size // world_size):
        lightest_first = np.argsort(load, axis=1, kind="stable")
        rows = np.empty_like(rounds[:, number])
        np.put_along_axis(rows, lightest_first, rounds[:, number], axis=1)
        dealt[:, :, number] = rows
        load += tokens[rows]
    return dealt.reshape(count, size)
