"""Plans batches with a set share of each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .repeats import repeating_batches

_SWAPS_TRIED = 200


def rows_of_shares(shares: Mapping[str, float], names: Sequence[str], size: int, unit: int = 1) -> list[int]:
    """Rows of each task in a batch of `size`: shares in proportion, rounded by largest remainder.

    With groups of `unit` rows, all three are counted in groups.

    >>> rows_of_shares({"a": 0.5, "b": 0.25, "c": 0.25}, ["a", "b", "c"], size=10)
    [5, 3, 2]

    Raises:
        ValueError: A task has no share, a share has no task, is not above 0 or comes to no row.
    """
    for name in shares:
        if name not in names:
            raise ValueError(f"batch_mix has no task {name!r} to take; the tasks are {', '.join(names)}.")
    for name in names:
        if name not in shares:
            raise ValueError(f"batch_mix has no share for the task {name!r}; give one, or leave the task out.")
        if not shares[name] > 0:
            raise ValueError(f"batch_mix gives {name!r} {shares[name]}; it must be above 0: leave the task out.")
    exact = np.array([shares[name] for name in names]) / sum(shares[name] for name in names) * size
    rows = np.floor(exact).astype(int)
    rows[np.argsort(rows - exact, kind="stable")[: size - rows.sum()]] += 1
    what = "rows" if unit == 1 else f"groups of {unit} rows"
    for name, own in zip(names, rows, strict=True):
        if not own:
            raise ValueError(
                f"batch_mix gives {name!r} less than one of {size} {what}; give it more, or use more {what}."
            )
    return [int(own) for own in rows]


def swap_repeats_apart(
    batches: np.ndarray, columns: Sequence[slice], queries: np.ndarray, documents: np.ndarray
) -> np.ndarray:
    """Takes apart what repeats from one task to another: each such row changes places with a row of its own task.

    A row that finds no place among the next 200 stays, and repeats, as do rows whose query or document has more rows
    than there are batches.

    Args:
        batches: `(batches, N)` rows.
        columns: Of each task, where its rows stand in a batch.
        queries, documents: `(rows,)` numbers, equal where the content is.
    """
    swaps = _Swaps(batches, (queries, documents))
    for batch in np.flatnonzero(repeating_batches(batches, queries, documents)).tolist():
        for own in columns:
            for column in range(own.start, own.stop):
                if swaps.repeats(batch, column):
                    swaps.take_apart(batch, column, own)
    return swaps.batches


def places_elsewhere(count: int, batch: int, column: int, own: slice) -> Iterator[tuple[int, int]]:
    """The next 200 places, batch and column, for which a place may be swapped: of other batches, in the columns `own`.

    First one place in each other of `count` batches, then the next in each.
    """
    width = own.stop - own.start
    for step in range(min((count - 1) * width, _SWAPS_TRIED)):
        yield (batch + 1 + step % (count - 1)) % count, own.start + (column - own.start + step // (count - 1)) % width


class _Swaps:
    def __init__(self, batches: np.ndarray, codes: tuple[np.ndarray, np.ndarray]) -> None:
        self.batches = batches.copy()
        self._codes = codes
        self._too_many = [np.bincount(of_rows[batches].ravel()) > len(batches) for of_rows in codes]
        self._held: dict[int, list[Counter[int]]] = {}

    def repeats(self, batch: int, column: int) -> bool:
        """Whether a place repeats what other places of the batch hold, and need not."""
        row = self.batches[batch, column]
        if any(too_many[of_rows[row]] for too_many, of_rows in zip(self._too_many, self._codes, strict=True)):
            return False
        return any(
            held[int(of_rows[row])] > 1 for held, of_rows in zip(self._contents(batch), self._codes, strict=True)
        )

    def take_apart(self, batch: int, column: int, own: slice) -> None:
        """Swaps a place with one of another batch in the columns `own` where nothing then repeats in the two."""
        row = int(self.batches[batch, column])
        for there, place in places_elsewhere(len(self.batches), batch, column, own):
            other = int(self.batches[there, place])
            if self._fits(row, there, other) and self._fits(other, batch, row):
                self._put(other, batch, column)
                self._put(row, there, place)
                return

    def _put(self, row: int, batch: int, column: int) -> None:
        previous = self.batches[batch, column]
        for held, of_rows in zip(self._contents(batch), self._codes, strict=True):
            held[int(of_rows[previous])] -= 1
            held[int(of_rows[row])] += 1
        self.batches[batch, column] = row

    def _fits(self, row: int, batch: int, instead_of: int) -> bool:
        return all(
            held[int(of_rows[row])] <= (of_rows[row] == of_rows[instead_of])
            for held, of_rows in zip(self._contents(batch), self._codes, strict=True)
        )

    def _contents(self, batch: int) -> list[Counter[int]]:
        if batch not in self._held:
            self._held[batch] = [Counter(of_rows[self.batches[batch]].tolist()) for of_rows in self._codes]
        return self._held[batch]
