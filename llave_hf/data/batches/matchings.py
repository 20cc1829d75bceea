"""Edge colouring of a bipartite graph: rows are edges between a query and a document, colours are batches."""

from __future__ import annotations

import numpy as np

_HOLES_TRIED = 32


class Matchings:
    """Rows spread over batches so that no batch holds a query or document twice.

    Rows change batches along alternating paths (Kempe chains): a path of rows that are in batch a and b in turn, and
    that no other row of the two touches, can swap a and b as a whole.

    Args:
        queries, documents: `(n,)` numbers, each at most `count` times.
        batch: `(n,)` the batch of each row, 0 to `count - 1`; free of repeats but for the rows of `misplaced`.
        misplaced: Positions of the rows that need another batch.
        count: Batches.
    """

    def __init__(
        self, queries: np.ndarray, documents: np.ndarray, batch: np.ndarray, misplaced: np.ndarray, count: int
    ) -> None:
        self._count = count
        self._ends = (queries.tolist(), documents.tolist())
        self._batch = batch.copy()
        self._batch[misplaced] = -1
        self._misplaced: list[int] = misplaced.tolist()
        placed = np.flatnonzero(self._batch >= 0)
        rows = placed.tolist()
        #  For queries and for documents: the row that holds number c in batch b, by c * count + b.
        self._held: tuple[dict[int, int], dict[int, int]] = (
            dict(zip((queries[placed] * count + batch[placed]).tolist(), rows, strict=True)),
            dict(zip((documents[placed] * count + batch[placed]).tolist(), rows, strict=True)),
        )
        self._sizes = np.bincount(batch[placed], minlength=count)

    def spread(self, size: int) -> np.ndarray:
        """The batch of each row, `(n,)`, where each batch has `size` rows or more; n is at least `count * size`."""
        missing = np.maximum(size - self._sizes, 0)
        holes: list[int] = np.repeat(np.arange(self._count), missing).tolist()
        for row in self._misplaced:
            self._place(row, holes)
        while (smallest := int(self._sizes.argmin())) != (largest := int(self._sizes.argmax())):
            if self._sizes[smallest] >= size:
                break
            self._move_one(largest, smallest)
        return self._batch

    def _place(self, row: int, holes: list[int]) -> None:
        for place in range(len(holes) - 1, max(len(holes) - 1 - _HOLES_TRIED, -1), -1):
            if self._is_free(row, holes[place]):
                self._put(row, holes[place])
                holes[place] = holes[-1]
                holes.pop()
                return
        for step in range(self._count):
            batch = (row + step) % self._count
            if self._is_free(row, batch):
                self._put(row, batch)
                return
        # A batch without the row's query, and one without its document: each has fewer than `count` other rows.
        one, other = (
            next(b for b in range(self._count) if self._ends[side][row] * self._count + b not in self._held[side])
            for side in (0, 1)
        )
        self._swap(self._path(1, self._ends[1][row], one, other), one, other)
        self._put(row, one)

    def _move_one(self, source: int, target: int) -> None:
        """Makes the batch `target`, which is smaller, larger by one row, and `source` smaller."""
        for row in np.flatnonzero(self._batch == source).tolist():
            for side in (0, 1):
                end = self._ends[side][row]
                if end * self._count + target not in self._held[side]:
                    path = self._path(side, end, source, target)
                    if len(path) % 2:  # begins and ends with a row of `source`
                        self._swap(path, source, target)
                        return
        raise AssertionError("of two matchings the larger has an augmenting path")

    def _path(self, side: int, end: int, one: int, other: int) -> list[int]:
        """Rows in turn of batch `one` and `other`, from a query or document that has none of `other`."""
        path = []
        while (row := self._held[side].get(end * self._count + one)) is not None:
            path.append(row)
            side = 1 - side
            end = self._ends[side][row]
            one, other = other, one
        return path

    def _swap(self, path: list[int], one: int, other: int) -> None:
        previous = [int(self._batch[row]) for row in path]
        for row, batch in zip(path, previous, strict=True):
            self._sizes[batch] -= 1
            for side in (0, 1):
                del self._held[side][self._ends[side][row] * self._count + batch]
        for row, batch in zip(path, previous, strict=True):
            self._put(row, one if batch == other else other)

    def _is_free(self, row: int, batch: int) -> bool:
        return all(self._ends[side][row] * self._count + batch not in self._held[side] for side in (0, 1))

    def _put(self, row: int, batch: int) -> None:
        self._batch[row] = batch
        self._sizes[batch] += 1
        for side in (0, 1):
            self._held[side][self._ends[side][row] * self._count + batch] = row
