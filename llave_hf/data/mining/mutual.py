"""Groups of mutual hard negatives, grown along their edges; B3 (arXiv 2505.11293) cuts the same graph with METIS."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np

from .growing import TRIED, Group, Grower


def grow_by_edges(grower: Grower, starts: np.ndarray, others: np.ndarray) -> None:
    """From the row with the fewest free neighbours on, always the free neighbour with the most edges into the group.

    Where a group has no such neighbour left, it goes on from the next row with the fewest; rows without neighbours
    wait for [`Grower.fill_up`].

    Args:
        grower: Is given the groups.
        starts, others: Edges, see [`mutual_edges`].
    """
    seeds = _Seeds(np.diff(starts).tolist(), grower.free)
    aside: list[Group] = []
    while (row := seeds.next()) is not None:
        group = grower.begin(row)
        refused: list[int] = []
        nearest: list[tuple[int, int, int]] = []
        edges: dict[int, int] = {}
        while row is not None:
            for other in others[starts[row] : starts[row + 1]].tolist():
                if grower.free[other]:
                    seeds.lower(other)
                    edges[other] = edges.get(other, 0) + 1
                    heapq.heappush(nearest, (-edges[other], seeds.degrees[other], other))
            if grower.is_full(group):
                break
            row = _next_of(nearest, edges, grower, group)
            if row is None:
                row = _next_seed(seeds, grower, group, refused)
            if row is not None:
                grower.take(group, row)
        if not grower.is_full(group):
            aside.append(group)
        seeds.put_back(refused)
    for group in aside:
        grower.release(group)


def _next_of(nearest: list[tuple[int, int, int]], edges: dict[int, int], grower: Grower, group: Group) -> int | None:
    while nearest:
        count, _, row = heapq.heappop(nearest)
        if grower.free[row] and edges[row] == -count and group.takes(row):
            return row
    return None


def _next_seed(seeds: _Seeds, grower: Grower, group: Group, refused: list[int]) -> int | None:
    while len(refused) < TRIED and (row := seeds.next()) is not None:
        if group.takes(row):
            return row
        refused.append(row)
    return next((row for row in refused if grower.free[row] and group.takes(row, repeats=True)), None)


class _Seeds:
    """Free rows by the number of their free neighbours, which only falls."""

    def __init__(self, degrees: list[int], free: list[bool]) -> None:
        self.degrees = degrees
        self._free = free
        self._rows: list[list[int]] = [[] for _ in range(max(degrees, default=0) + 1)]
        for row in reversed(range(len(degrees))):  # the first row lies on top
            self._rows[degrees[row]].append(row)
        self._lowest = 1

    def lower(self, row: int) -> None:
        """One neighbour fewer is free."""
        self.degrees[row] -= 1
        self._rows[self.degrees[row]].append(row)
        self._lowest = max(min(self._lowest, self.degrees[row]), 1)

    def next(self) -> int | None:
        """Takes out a row with the fewest neighbours, one at least; None: there is none."""
        while self._lowest < len(self._rows):
            rows = self._rows[self._lowest]
            while rows:
                row = rows.pop()
                if self._free[row] and self.degrees[row] == self._lowest:
                    return row
            self._lowest += 1
        return None

    def put_back(self, rows: Iterable[int]) -> None:
        """Rows that `next` gave and nobody took."""
        for row in rows:
            if self._free[row] and self.degrees[row]:
                self._rows[self.degrees[row]].append(row)
                self._lowest = min(self._lowest, self.degrees[row])
