"""Groups as they grow: every one of the same size, and what may join one.

No two rows of a group may answer each other, by the margins and ranks of mining, however they got into it. A query, a
document or a label stands twice in a group only where no other row is found: the loss masks such pairs.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .candidates import Candidates

TRIED = 256  # rows that are looked at for a place that no hard row fills


class Group:
    """A group that grows, and what it holds."""

    def __init__(self, found: Candidates, sides: list[list[int]]) -> None:
        self.rows: list[int] = []
        self._found = found
        self._sides = sides
        self._held: list[set[int]] = [set() for _ in sides]

    def takes(self, row: int, repeats: bool = False) -> bool:
        """Whether a row may join: nothing would stand twice, unless `repeats`, and none may answer another."""
        if not repeats and any(
            codes[row] in held for codes, held in zip(self._sides, self._held, strict=True) if codes[row] >= 0
        ):
            return False
        found, rows = self._found, np.array(self.rows, dtype=np.int64)
        # Rows of one query or one document are masked by the loss.
        rows = rows[(found.queries[rows] != found.queries[row]) & (found.documents[rows] != found.documents[row])]
        own = np.full(len(rows), row)
        ends, other_ends = np.concatenate([rows, own]), np.concatenate([own, rows])
        return not found.may_answer(found.queries[ends], found.documents[other_ends]).any()

    def add(self, row: int) -> None:
        """Takes a row in."""
        self.rows.append(row)
        for codes, held in zip(self._sides, self._held, strict=True):
            held.add(codes[row])


class Grower:
    """Groups so far, and the rows that are free.

    Args:
        found: What is hard, and what may answer what.
        size: G, rows of a group.

    Attributes:
        groups: Full groups.
        free: Of each row, whether it may be taken.
    """

    def __init__(self, found: Candidates, size: int) -> None:
        self.found = found
        self.size = size
        self.groups: list[list[int]] = []
        self.free = [True] * len(found)
        columns = (found.queries, found.documents, found.labels)
        self._sides = [codes.tolist() for codes in columns if codes is not None]

    def begin(self, row: int) -> Group:
        """A group with one row."""
        group = Group(self.found, self._sides)
        self.take(group, row)
        return group

    def is_full(self, group: Group) -> bool:
        """Whether it has G rows."""
        return len(group.rows) == self.size

    def take(self, group: Group, row: int) -> None:
        """Puts a free row into a group, which is kept once it is full."""
        group.add(row)
        self.free[row] = False
        if self.is_full(group):
            self.groups.append(group.rows)

    def fill(self, group: Group, rows: Iterable[int], repeats: bool = False) -> bool:
        """Adds what may join, of some rows, until the group is full; says whether it is."""
        for row in rows:
            if self.is_full(group):
                break
            if self.free[row] and group.takes(row, repeats):
                self.take(group, row)
        return self.is_full(group)

    def release(self, group: Group) -> None:
        """Sets the rows of a group free."""
        for row in group.rows:
            self.free[row] = True

    def force(self, needed: int) -> int:
        """Makes so many groups, the last of free rows as they come; says how many these are."""
        free = [row for row, is_free in enumerate(self.free) if is_free]
        missing = max(needed - len(self.groups), 0)
        for number in range(missing):
            rows = free[number * self.size : (number + 1) * self.size]
            self.groups.append(rows)
            for row in rows:
                self.free[row] = False
        return missing

    def fill_up(self) -> None:
        """Makes groups of the free rows, in their order, as long as there are enough that go together."""
        waiting = [row for row, free in enumerate(self.free) if free]
        while len(waiting) >= self.size:
            group = self.begin(waiting[0])
            rows = waiting[1 : 1 + TRIED * self.size]
            if self.fill(group, rows) or self.fill(group, rows, repeats=True):
                waiting = [row for row in waiting if self.free[row]]
            else:
                self.release(group)
                waiting = waiting[1:]  # it is in no group
