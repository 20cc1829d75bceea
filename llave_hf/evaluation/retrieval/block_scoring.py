"""Scores a block of queries: where their answers stand, and which wrong candidates are nearest.

Shapes: Q queries and P answers of a subset; q queries and p answers of a block, V distinct vectors, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llave_hf.evaluation.benchmark.collection import TaskInputs
from llave_hf.evaluation.scoring.metrics import IntArray
from llave_hf.evaluation.scoring.nearest import NEAREST, Cosines, HighestScores, Nearest

from .vectors import Embeddings

TILE = 8192  # vectors scored at once


class Block(NamedTuple):
    """Answers that are ranked together, all those of a query in one block.

    Attributes:
        answers: (p,) their numbers within the task.
        queries: (p,) the query of each.
    """

    answers: IntArray
    queries: IntArray


class Part(NamedTuple):
    """What is found out about a block: (p,) twice, above and tied, and its queries' hardest negatives."""

    above: IntArray
    tied: IntArray
    nearest: Nearest


class Pool(NamedTuple):
    """The candidates of a whole subset: V distinct vectors, and the candidates that have each of them."""

    vectors: IntArray
    counts: IntArray
    starts: IntArray
    members: NDArray[np.int32]

    @classmethod
    def of(cls, candidates: NDArray[np.int32], vector_ids: IntArray) -> Pool:
        members = candidates[np.argsort(vector_ids[candidates], kind="stable")]
        vectors, starts, counts = np.unique(vector_ids[members], return_index=True, return_counts=True)
        return cls(vectors, counts, starts, members)

    def members_of(self, place: int) -> NDArray[np.int32]:
        return self.members[self.starts[place] : self.starts[place] + self.counts[place]]


def score_local(task: TaskInputs, block: Block, embeddings: Embeddings, vector_ids: IntArray) -> Part:
    """A block among each query's own candidates."""
    rows, row_of = np.unique(block.queries, return_inverse=True)
    pools = [vector_ids[task.pools[row]] for row in rows]
    vectors = np.unique(np.concatenate(pools))
    queries = embeddings[task.queries[rows]]
    scores = np.empty((len(rows), len(vectors)), dtype=np.float32)
    for start in range(0, len(vectors), TILE):
        tile = slice(start, start + TILE)
        scores[:, tile] = queries @ embeddings[vectors[tile]].T
    above, tied = np.empty((2, len(block.answers)), dtype=np.int64)
    nearest = Nearest.empty(len(rows), len(block.answers))
    for row, pool in enumerate(pools):
        candidates = scores[row, np.searchsorted(vectors, pool)]
        inside = np.flatnonzero(row_of == row)
        answers = task.answers[block.answers[inside]]
        own = scores[row, np.searchsorted(vectors, vector_ids[answers])]
        above[inside] = np.count_nonzero(candidates > own[:, None], axis=1)
        tied[inside] = np.count_nonzero(candidates == own[:, None], axis=1) - 1
        nearest.answers[inside] = own
        wrong = ~np.isin(task.pools[rows[row]], answers)
        _keep_hardest(nearest, row, candidates[wrong], task.pools[rows[row]][wrong])
    return Part(above, tied, nearest)


def _keep_hardest(nearest: Nearest, row: int, cosines: Cosines, ids: NDArray[np.int32]) -> None:
    """The hardest negatives of one query, from all its wrong candidates, (n,) each."""
    highest = HighestScores(1)
    if len(ids):
        highest.add(cosines[None], np.ones((1, len(ids)), dtype=np.int64))
        listed = highest.places[0, : min(NEAREST, len(ids))]
        nearest.put_negatives(row, ids[listed], cosines[listed], highest.tied_at(0, cosines[listed[-1]]))


def score_global(task: TaskInputs, block: Block, embeddings: Embeddings, vector_ids: IntArray, pool: Pool) -> Part:
    """A block among all candidates of the subset."""
    rows, row_of = np.unique(block.queries, return_inverse=True)
    queries = embeddings[task.queries[rows]]
    places = np.searchsorted(pool.vectors, vector_ids[task.answers[block.answers]])
    own = np.empty(len(places), dtype=np.float32)
    for start in np.unique(places // TILE) * TILE:
        inside = np.flatnonzero(places // TILE == start // TILE)
        scores = queries @ embeddings[pool.vectors[start : start + TILE]].T
        own[inside] = scores[row_of[inside], places[inside] - start]
    above, tied = np.zeros((2, len(places)), dtype=np.int64)
    highest = HighestScores(len(rows))
    for start in range(0, len(pool.vectors), TILE):
        scores = queries @ embeddings[pool.vectors[start : start + TILE]].T
        counts = pool.counts[start : start + TILE]
        of_answers = scores[row_of]
        above += np.where(of_answers > own[:, None], counts, 0).sum(axis=1)
        tied += np.where(of_answers == own[:, None], counts, 0).sum(axis=1)
        negatives = np.repeat(counts[None], len(rows), axis=0)
        inside = np.flatnonzero(places // TILE == start // TILE)
        np.subtract.at(negatives, (row_of[inside], places[inside] - start), 1)
        highest.add(scores, negatives, start)
    nearest = Nearest.empty(len(rows), len(places))
    nearest.answers[:] = own
    for row in range(len(rows)):
        _put_members(nearest, row, highest, pool, task.answers[block.answers[row_of == row]])
    return Part(above, tied - 1, nearest)


def _put_members(nearest: Nearest, row: int, highest: HighestScores, pool: Pool, answers: IntArray) -> None:
    """The hardest negatives of one query, from the vectors that score highest."""
    ids: list[int] = []
    cosines: list[np.float32] = []
    for place, score in zip(highest.places[row], highest.scores[row], strict=True):
        if score > -np.inf and len(ids) < NEAREST:
            some = pool.members_of(place)[: NEAREST + len(answers)]
            wrong = some[~np.isin(some, answers)][: NEAREST - len(ids)]
            ids += wrong.tolist()
            cosines += [score] * len(wrong)
    if ids:
        listed = np.array(cosines, dtype=np.float32)
        nearest.put_negatives(row, np.array(ids), listed, highest.tied_at(row, listed[-1]))
