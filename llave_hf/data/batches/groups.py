"""Plans batches of whole groups: which groups meet, so that no query and no document stands in a batch twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from .mix import places_elsewhere
from .ranks import deal_to_ranks

_CANDIDATES = 64  # the next groups in random order, among which a batch finds the one that repeats least


def plan_groups(
    groups: np.ndarray, per_batch: int, count: int, contents: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """Spreads groups over batches so that little repeats from one group of a batch to another.

    Where nothing does, the groups come as they are given. What one group holds twice stays.

    >>> documents = np.array([0, 1, 0, 2, 3, 4, 3, 5])
    >>> plan_groups(np.arange(8).reshape(4, 2), per_batch=2, count=2, contents=(np.arange(8), documents))
    array([[0, 1, 4, 5],
           [2, 3, 6, 7]])

    Args:
        groups: `(k, G)` rows, in random order of the groups; the first `count * per_batch` are used.
        per_batch: Groups in a batch.
        count: Batches.
        contents: `(rows,)` numbers of queries and of documents, equal where the content is. None: repeats are not
            looked for.

    Returns:
        `(count, per_batch * G)` rows.
    """
    used = groups[: count * per_batch]
    if contents is not None and per_batch > 1:
        codes = shared_codes(used, contents)
        if codes is not None:
            used = used[_spread(codes, per_batch, count)]
            used = swap_groups_apart(used.reshape(count, -1), used.shape[1], [slice(0, per_batch)], contents)
    return used.reshape(count, per_batch * groups.shape[1])


def shared_codes(groups: np.ndarray, contents: tuple[np.ndarray, np.ndarray]) -> np.ndarray | None:
    """Numbers of what stands in more than one of the groups `(k, G)`: `(k, w)` from 1, 0 where there is no more.

    None: there is nothing.
    """
    queries, documents = contents
    both = np.concatenate([queries[groups] * 2, documents[groups] * 2 + 1], axis=1)
    order = np.sort(both, axis=1)
    order[:, 1:][order[:, 1:] == order[:, :-1]] = -1  # once a group
    names, numbers, counts = np.unique(order, return_inverse=True, return_counts=True)
    shared = (counts > 1) & (names >= 0)
    if not shared.any():
        return None
    codes = np.where(shared, np.cumsum(shared), 0)[numbers.reshape(order.shape)]
    return -np.sort(-codes, axis=1)[:, : int((codes > 0).sum(axis=1).max())]


def _spread(codes: np.ndarray, per_batch: int, count: int) -> np.ndarray:
    """Fills one batch after the other, each time with the one of the next groups that repeats least: `(k,)` groups."""
    held = np.zeros(int(codes.max()) + 1, dtype=bool)
    window = list(range(min(_CANDIDATES, len(codes))))
    following = len(window)
    planned = np.empty(count * per_batch, dtype=np.int64)
    for batch in range(count):
        start = batch * per_batch
        for place in range(start, start + per_batch):
            chosen = window.pop(int(held[codes[window]].sum(axis=1).argmin()))
            planned[place] = chosen
            held[codes[chosen]] = True
            held[0] = False
            if following < len(codes):
                window.append(following)
                following += 1
        held[codes[planned[start : start + per_batch]]] = False
    return planned


def swap_groups_apart(
    batches: np.ndarray, size: int, columns: Sequence[slice], contents: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Takes apart groups that share something: each changes places with one of its own columns of another batch.

    Of the next 200 places the one after whose swap the two batches repeat least is taken, if it is less than before.
    What stands in more groups than there are batches stays.

    Args:
        batches: `(batches, N)` rows.
        size: G, rows of a group; a batch holds one group after the other.
        columns: Where groups that may change places stand, counted in groups.
        contents: `(rows,)` numbers of queries and of documents, equal where the content is.
    """
    count, per_batch = len(batches), batches.shape[1] // size
    groups = batches.reshape(-1, size)
    codes = shared_codes(groups, contents)
    if codes is None or count == 1:
        return batches
    codes[np.bincount(codes.ravel())[codes] > count] = 0
    swaps = _Swaps(codes, count, per_batch)
    for batch in swaps.repeating():
        for own in columns:
            for column in range(own.start, own.stop):
                if swaps.repeats(batch, column):
                    swaps.take_apart(batch, column, own)
    return groups[swaps.plan].reshape(batches.shape)


class _Swaps:
    """Attributes:
    plan: `(batches, per_batch)`, the group of each place.
    """

    def __init__(self, codes: np.ndarray, count: int, per_batch: int) -> None:
        self.plan = np.arange(count * per_batch).reshape(count, per_batch)
        self._codes = codes
        self._held: dict[int, Counter[int]] = {}

    def repeating(self) -> list[int]:
        """The batches in which a code stands twice."""
        ordered = np.sort(self._codes[self.plan].reshape(len(self.plan), -1), axis=1)
        return np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(axis=1)).tolist()

    def repeats(self, batch: int, column: int) -> int:
        """How many codes of a place stand elsewhere in its batch."""
        held = self._contents(batch)
        return sum(held[code] > 1 for code in self._of(int(self.plan[batch, column])))

    def take_apart(self, batch: int, column: int, own: slice) -> None:
        """Swaps a place with the one in another batch that leaves the fewest repeats, if that is fewer."""
        best, place_of_best = 0, None
        for there, place in places_elsewhere(len(self.plan), batch, column, own):
            gained = self._gain((batch, column), (there, place))
            if gained > best:
                best, place_of_best = gained, (there, place)
                if gained == self.repeats(batch, column) + self.repeats(there, place):
                    break
        if place_of_best is not None:
            self._swap((batch, column), place_of_best)

    def _gain(self, one: tuple[int, int], other: tuple[int, int]) -> int:
        before = self.repeats(*one) + self.repeats(*other)
        leaving, coming = self._of(int(self.plan[one])), self._of(int(self.plan[other]))
        here, there = self._contents(one[0]), self._contents(other[0])
        after = sum(here[code] > (code in leaving) for code in coming)
        return before - after - sum(there[code] > (code in coming) for code in leaving)

    def _swap(self, one: tuple[int, int], other: tuple[int, int]) -> None:
        moved = int(self.plan[one]), int(self.plan[other])
        for (batch, column), leaving, coming in ((one, *moved), (other, *moved[::-1])):
            held = self._contents(batch)
            held.subtract(self._of(leaving))
            held.update(self._of(coming))
            self.plan[batch, column] = coming

    def _of(self, group: int) -> set[int]:
        return {code for code in self._codes[group].tolist() if code}

    def _contents(self, batch: int) -> Counter[int]:
        if batch not in self._held:
            self._held[batch] = Counter(code for group in self.plan[batch].tolist() for code in self._of(group))
        return self._held[batch]


def deal_groups_to_ranks(batches: np.ndarray, size: int, tokens: np.ndarray, world_size: int) -> np.ndarray:
    """[`deal_to_ranks`] that leaves groups whole, for ranks that see no other rank's documents.

    Args:
        batches: `(batches, N)` rows, one group after the other.
        size: G, rows of a group, which divides a rank's share of N.
        tokens: `(rows,)` tokens of each row.
        world_size: W.
    """
    groups = batches.reshape(-1, size)
    places = np.arange(len(groups)).reshape(len(batches), -1)
    return groups[deal_to_ranks(places, tokens[groups].sum(axis=1), world_size)].reshape(batches.shape)
