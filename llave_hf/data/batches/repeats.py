"""Plans batches in which no query and no document stands twice, as many as there can be.

Rows are edges between queries and documents, and a batch without repeats is a matching. By König's theorem, rows in
which nothing stands more than K times can always be spread over K such batches, of equal size.
"""

from __future__ import annotations

import numpy as np

from .matchings import Matchings


def plan_batches(queries: np.ndarray, documents: np.ndarray, size: int, count: int) -> np.ndarray:
    """Spreads rows over batches so that the most batches hold each query and each document once.

    A query or document that has more rows than there are batches has to repeat somewhere. Its surplus rows make
    batches of their own, over which they are spread evenly; these come last. The rest of the batches repeat nothing.

    >>> plan_batches(np.array([0, 1, 2, 3]), np.array([7, 7, 8, 8]), size=2, count=2)
    array([[0, 2],
           [1, 3]])
    >>> plan_batches(np.arange(6), np.array([7, 7, 7, 7, 8, 9]), size=2, count=3)  # 7 twice, in the last batch
    array([[0, 4],
           [1, 5],
           [2, 3]])

    Args:
        queries, documents: `(n,)` numbers, equal where the content is, in random order of the rows.
        size: Rows of a batch.
        count: Batches, at most n // size.

    Returns:
        `(count, size)` positions of rows, each at most once.
    """
    (query_turn, query_first), (document_turn, document_first) = _groups(queries), _groups(documents)
    documents_repeat_more = np.count_nonzero(document_turn) >= np.count_nonzero(query_turn)
    first, other = (document_first, queries) if documents_repeat_more else (query_first, documents)
    turn = np.maximum(query_turn, document_turn)

    # With K batches, each query and document may bring K rows: those of the turns 0 to K - 1.
    most = np.arange(1, count + 1)
    rows = np.cumsum(np.bincount(turn, minlength=count))[:count]
    free = int(most[rows >= most * size].max(initial=0))

    kept = np.flatnonzero(turn < free)
    batch = _dealt(first[kept], free)
    twice = np.flatnonzero(_groups(batch * (other.max(initial=0) + 1) + other[kept])[0])
    if len(twice):
        batch = Matchings(queries[kept], documents[kept], batch, twice, free).spread(size)
    planned = kept[_first_of_each(batch, size)]

    left = np.setdiff1d(np.arange(len(queries)), planned)
    repeating = left[_first_of_each(_dealt(first[left], count - free), size)]
    return np.concatenate([planned, repeating]).reshape(count, size)


def repeating_batches(batches: np.ndarray, *codes: np.ndarray) -> np.ndarray:
    """Which of the batches `(batches, N)` hold a row twice by any of the codes: bool `(batches,)`."""
    repeats = np.zeros(len(batches), dtype=bool)
    for of_rows in codes:
        ordered = np.sort(of_rows[batches], axis=1)
        repeats |= (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return repeats


def _groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row, how many equal ones stand before it, and the position of the first of them: `(n,)` both."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(codes)])
    lengths = np.diff(np.append(starts, len(codes)))
    turn, first = np.empty_like(order), np.empty_like(order)
    turn[order] = np.arange(len(codes)) - np.repeat(starts, lengths)
    first[order] = np.repeat(order[starts], lengths)
    return turn, first


def _dealt(first: np.ndarray, count: int) -> np.ndarray:
    """A batch for each row: dealt in turn, equal ones one after the other, so that they go to different batches."""
    batch = np.empty(len(first), dtype=np.int64)
    batch[np.argsort(first, kind="stable")] = np.arange(len(first)) % max(count, 1)
    return batch if count else batch[:0]


def _first_of_each(batch: np.ndarray, size: int) -> np.ndarray:
    """Positions of the first `size` rows of each batch, batch after batch."""
    order = np.argsort(batch, kind="stable")
    return order[_groups(batch[order])[0] < size]
