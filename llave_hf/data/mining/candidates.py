"""Which documents are hard negatives of a query, which may answer it, and which rows are so of each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Candidates:
    """Of the rows of one task.

    Attributes:
        queries, documents: `(n,)` the distinct query and document of each row.
        labels: `(n,)`, equal where two rows are no negatives of each other; -1: none. Or None.
        window: `(Q, k)` documents that pass the filters, the nearest first; -1 elsewhere.
        hard: Pairs of query and document in `window`, as ascending numbers query * D + document.
        answers: Likewise the pairs that must not meet as negatives: a query's positives in any row, what scores too
            near them, and what ranks before the window.
        num_documents: D.
    """

    queries: np.ndarray
    documents: np.ndarray
    labels: np.ndarray | None
    window: np.ndarray
    hard: np.ndarray
    answers: np.ndarray
    num_documents: int

    def __len__(self) -> int:
        return len(self.queries)

    def may_answer(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Which documents may answer the queries beside them: bool `(m,)`."""
        return _are_in(queries * self.num_documents + documents, self.answers)

    def are_hard(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Which rows are hard for each other: each one's document is a hard negative of the other's query."""
        mutual = _are_in(self.queries[one] * self.num_documents + self.documents[other], self.hard)
        mutual &= _are_in(self.queries[other] * self.num_documents + self.documents[one], self.hard)
        if self.labels is not None:
            mutual &= (self.labels[one] != self.labels[other]) | (self.labels[one] < 0)
        return mutual

    def rows_of_documents(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of document d as `rows[firsts[d] : firsts[d + 1]]`, ascending: `(n,)` and `(D + 1,)`."""
        rows = np.argsort(self.documents, kind="stable")
        return rows, np.searchsorted(self.documents[rows], np.arange(self.num_documents + 1))


def find_candidates(
    scores: np.ndarray,
    numbers: np.ndarray,
    queries: np.ndarray,
    documents: np.ndarray,
    *,
    num_documents: int,
    itself: np.ndarray,
    ceilings: np.ndarray,
    floor: float,
    ranks: tuple[int, int],
    labels: np.ndarray | None = None,
    right: np.ndarray | None = None,
) -> Candidates:
    """Filters the nearest documents of each query as hard negatives are filtered, see [`MiningOptions`].

    Args:
        scores, numbers: `(Q, k)` cosines and numbers of the nearest documents, best first; -1 where there is none.
        queries, documents: `(n,)` the distinct query and document of each row.
        num_documents: D.
        itself: `(Q,)` the document with the query's own content; -1: none.
        ceilings: `(Q,)` the cosine above which a document may answer a query.
        floor: The cosine below which one is no hard negative.
        ranks: `rank_min` and `rank_max`, counted without positives and the query itself.
        labels: See [`Candidates`].
        right: Pairs that answer each other besides, as numbers query * D + document.
    """
    there = numbers >= 0
    codes = np.arange(len(numbers))[:, None] * num_documents + numbers
    positives = np.unique(queries * num_documents + documents)
    is_answer = (there & _are_in(codes, positives)) | (there & (numbers == itself[:, None]))
    others = there & ~is_answer
    rank = np.cumsum(others, axis=1)
    looked_at = others & (rank <= ranks[1])
    near = looked_at & ((scores > ceilings[:, None]) | (rank <= ranks[0]))
    if right is not None:
        near |= looked_at & _are_in(codes, np.unique(right))
    window = looked_at & ~near & (scores >= floor)
    answers = np.unique(np.concatenate([positives, codes[is_answer | near]]))
    hard = np.sort(codes[window])
    return Candidates(queries, documents, labels, np.where(window, numbers, -1), hard, answers, num_documents)


def mutual_edges(found: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose documents are hard negatives of each other's queries (B3, arXiv 2505.11293, section 3.1).

    Ranks are those of distinct documents. Where a document has many rows, a row has edges to so many of them that it
    has about as many edges as its query has hard negatives, not to all.

    Returns:
        Edges of row i as `rows[starts[i] : starts[i + 1]]`; each edge stands at both its ends. `(n + 1,)` and `(E,)`.
    """
    size, width = len(found), found.window.shape[1]
    of_document, firsts = found.rows_of_documents()
    counts = np.diff(firsts)
    lifts = -(-width // max(min(width, found.num_documents - 1), 1))
    edges = [np.zeros(0, np.int64)]
    for start in range(0, size, _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, size))
        place, column = np.nonzero(found.window[found.queries[rows]] >= 0)
        row = rows[place]
        document = found.window[found.queries[row], column]
        for lift in range(lifts):
            lifted = lift < counts[document]
            own, other = row[lifted], document[lifted]
            # Each row begins elsewhere among the rows of a document.
            owner = of_document[firsts[other] + (own + lift) % counts[other]]
            mutual = found.are_hard(own, owner)
            edges += [own[mutual] * size + owner[mutual], owner[mutual] * size + own[mutual]]
    both = np.unique(np.concatenate(edges))
    return np.searchsorted(both, np.arange(size + 1) * size), both % max(size, 1)


def _are_in(codes: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Which codes are among the ascending ones: bool, in the shape of `codes`."""
    if not len(ascending):
        return np.zeros(codes.shape, dtype=bool)
    places = np.searchsorted(ascending, codes)
    return ascending[np.minimum(places, len(ascending) - 1)] == codes
