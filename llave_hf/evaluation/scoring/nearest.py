"""Which wrong candidates lie nearest to each query, and how near the answers are: what a report shows of a ranking.

Only the first few of a query's candidates are kept, tile by tile, never all scores. Among wrong candidates with
exactly the same cosine the choice is arbitrary; how many there are is counted, so that nobody takes it for an order.

Shapes: Q queries, P answers, q queries of a block, T candidates of a tile, N = `NEAREST`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics import IntArray

NEAREST = 5
NOBODY = -1

Cosines = NDArray[np.float32]


@dataclass(frozen=True)
class Nearest:
    """How near a subset's queries are to their answers and to their hardest negatives.

    Attributes:
        answers: (P,) cosine of each answer with its query.
        negatives: (Q, N) distinct inputs, the hardest first; -1 past a query's last wrong candidate.
        cosines: (Q, N) theirs; NaN past the last.
        tied: (Q,) how many wrong candidates have exactly the cosine of the last one listed, itself included; more
            than are listed where ties reach past the list, 0 where there is none.
    """

    answers: Cosines
    negatives: IntArray
    cosines: Cosines
    tied: IntArray

    @classmethod
    def empty(cls, queries: int, answers: int) -> Nearest:
        """Room for so many."""
        return cls(
            answers=np.full(answers, np.nan, dtype=np.float32),
            negatives=np.full((queries, NEAREST), NOBODY, dtype=np.int64),
            cosines=np.full((queries, NEAREST), np.nan, dtype=np.float32),
            tied=np.zeros(queries, dtype=np.int64),
        )

    def put(self, part: Nearest, queries: IntArray, answers: IntArray) -> None:
        """Fill in a block: its distinct queries (q,) and its answers."""
        self.answers[answers] = part.answers
        self.negatives[queries] = part.negatives
        self.cosines[queries] = part.cosines
        self.tied[queries] = part.tied

    def put_negatives(self, row: int, ids: NDArray[np.integer], cosines: Cosines, tied: int) -> None:
        """Fill in one query's list of at most N."""
        self.negatives[row, : len(ids)] = ids
        self.cosines[row, : len(ids)] = cosines
        self.tied[row] = tied


class HighestScores:
    """The N highest scores of each of q queries, tile by tile; a place may stand for several candidates.

    Attributes:
        scores: (q, N) descending; minus infinity past the last.
        places: (q, N) where they stand.
        counts: (q, N) how many candidates stand there.
        tied: (q,) how many candidates have exactly the last score, those listed included.
    """

    def __init__(self, queries: int) -> None:
        self.scores = np.full((queries, NEAREST), -np.inf, dtype=np.float32)
        self.places = np.full((queries, NEAREST), NOBODY, dtype=np.int64)
        self.counts = np.zeros((queries, NEAREST), dtype=np.int64)
        self.tied = np.zeros(queries, dtype=np.int64)

    def add(self, scores: Cosines, counts: IntArray, start: int = 0) -> None:
        """Look through a tile.

        Args:
            scores: (q, T).
            counts: (q, T) how many candidates each stands for; none: it is left out.
            start: the place of the tile's first column.
        """
        scores = np.where(counts > 0, scores, -np.inf)
        kept = min(NEAREST, scores.shape[1])
        columns = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
        before = self.scores, self.counts, self.tied
        merged = np.hstack([self.scores, np.take_along_axis(scores, columns, axis=1)])
        order = np.argsort(-merged, axis=1, kind="stable")[:, :NEAREST]
        places = np.hstack([self.places, columns + start])
        sizes = np.hstack([self.counts, np.take_along_axis(counts, columns, axis=1)])
        self.scores, self.places, self.counts = (np.take_along_axis(v, order, axis=1) for v in (merged, places, sizes))
        lowest = self.scores[:, -1:]
        listed = np.where(before[0] == lowest, before[1], 0).sum(axis=1)
        known = np.where(before[0][:, -1] == lowest[:, 0], before[2], listed)
        self.tied = known + np.where(scores == lowest, counts, 0).sum(axis=1)

    def tied_at(self, row: int, score: np.float32) -> int:
        """How many candidates of a query have exactly this one of the listed scores."""
        if score == self.scores[row, -1]:
            return int(self.tied[row])
        return int(self.counts[row, self.scores[row] == score].sum())
