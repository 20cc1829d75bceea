"""Ranks each query's answers among its candidates, in tiles of bounded memory.

Scores are cosines in float32. Only exactly equal scores are ties, so equal vectors must get bitwise equal scores; but
a matrix product may round the same row differently in different places. Hence each distinct *vector* is scored once a
query, and its score is shared by all inputs that have it: an encoder that maps everything to one vector ties
everything, whatever the BLAS. Where a tile is scored twice, it is the same product again, to the same bits.

The cut into blocks of queries and tiles of candidates does not depend on the number of ranks, and each block is ranked
by one of them: the ranks of the answers are the same on any number of processes.

Shapes: M distinct inputs, Q queries, P answers, D dimensions; q queries and p answers of a block, V distinct vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from llave_hf import distributed

from .collection import TaskInputs
from .metrics import AnswerRanks, IntArray
from .vectors import Embeddings

LOCAL_QUERIES = 32  # a block's queries with candidates of their own
LOCAL_CANDIDATES = 1 << 18  # and how many candidates these have together (a single longer list apart)
GLOBAL_QUERIES = 256
TILE = 8192  # vectors scored at once
ROWS_AT_ONCE = 8192  # normalised at once


class _Block(NamedTuple):
    """Answers that are ranked together: `answers` numbers them within the task, `queries` their queries."""

    answers: IntArray
    queries: IntArray


def rank_tasks(
    tasks: Sequence[TaskInputs], embeddings: Embeddings, vector_ids: IntArray, *, show_progress: bool = False
) -> list[AnswerRanks]:
    """Rank every answer of every subset; with several ranks each does a share, and all get everything.

    Args:
        embeddings: (M, D), L2-normalised.
        vector_ids: (M,) from :func:`normalise`.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    blocks = [(number, block) for number, task in enumerate(tasks) for block in _blocks(task, vector_ids)]
    own = blocks[rank::world_size]
    found = []
    pools: dict[int, tuple[IntArray, IntArray]] = {}
    for number, block in tqdm(own, desc="Scoring", unit="block", disable=not show_progress or rank != 0):
        task = tasks[number]
        if task.task.pool == "global":
            if number not in pools:
                pools = {number: np.unique(vector_ids[task.pools[0]], return_counts=True)}
            found.append(_rank_global(task, block, embeddings, vector_ids, *pools[number]))
        else:
            found.append(_rank_local(task, block, embeddings, vector_ids))
    above = [np.zeros(len(task.answers), dtype=np.int64) for task in tasks]
    tied = [np.zeros(len(task.answers), dtype=np.int64) for task in tasks]
    for share, part in enumerate(distributed.all_gather_object(found)):
        for (number, block), (block_above, block_tied) in zip(blocks[share::world_size], part, strict=True):
            above[number][block.answers], tied[number][block.answers] = block_above, block_tied
    return [
        AnswerRanks(above[number], tied[number], task.candidates, task.answer_queries, task.gains)
        for number, task in enumerate(tasks)
    ]


def normalise(embeddings: Embeddings) -> IntArray:
    """L2-normalise the rows in place (zero rows stay) and tell which rows are bitwise equal.

    Returns:
        (M,) for each row the first row with the same vector.
    """
    digests = np.empty((len(embeddings), 2), dtype=np.uint64)
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = embeddings[start : start + ROWS_AT_ONCE]
        rows += 0.0  # -0.0 becomes 0.0: equal numbers, equal bytes
        hashed = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
        digests[start : start + len(rows)] = np.frombuffer(hashed, dtype=np.uint64).reshape(-1, 2)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        np.divide(rows, norms, out=rows, where=norms > 0)
    pairs = digests.view([("one", np.uint64), ("other", np.uint64)]).reshape(-1)
    _, first, group = np.unique(pairs, return_index=True, return_inverse=True)
    return first[group.reshape(-1)]


def _blocks(task: TaskInputs, vector_ids: IntArray) -> Iterator[_Block]:
    """The task's answers, cut so that each block fits in memory."""
    queries = np.arange(len(task.answers)) if task.answer_queries is None else task.answer_queries
    if task.task.pool == "global":
        # by place of the answer, so that a block's answers lie in few tiles
        order = np.argsort(vector_ids[task.answers], kind="stable")
        for start in range(0, len(order), GLOBAL_QUERIES):
            answers = order[start : start + GLOBAL_QUERIES]
            yield _Block(answers, queries[answers])
        return
    lengths = task.candidates
    start = 0
    while start < len(lengths):
        stop, total = start + 1, lengths[start]
        while stop < min(len(lengths), start + LOCAL_QUERIES) and total + lengths[stop] <= LOCAL_CANDIDATES:
            total += lengths[stop]
            stop += 1
        answers = np.arange(*np.searchsorted(queries, [start, stop]))
        yield _Block(answers, queries[answers])
        start = stop


def _rank_local(
    task: TaskInputs, block: _Block, embeddings: Embeddings, vector_ids: IntArray
) -> tuple[IntArray, IntArray]:
    """(p,) twice, above and tied, among each query's own candidates."""
    rows, row_of = np.unique(block.queries, return_inverse=True)
    pools = [vector_ids[task.pools[row]] for row in rows]
    vectors = np.unique(np.concatenate(pools))
    queries = embeddings[task.queries[rows]]
    scores = np.empty((len(rows), len(vectors)), dtype=np.float32)
    for start in range(0, len(vectors), TILE):
        tile = slice(start, start + TILE)
        scores[:, tile] = queries @ embeddings[vectors[tile]].T
    above, tied = np.empty((2, len(block.answers)), dtype=np.int64)
    for number, (answer, row) in enumerate(zip(block.answers, row_of.reshape(-1), strict=True)):
        candidates = scores[row, np.searchsorted(vectors, pools[row])]
        own = scores[row, np.searchsorted(vectors, vector_ids[task.answers[answer]])]
        above[number] = np.count_nonzero(candidates > own)
        tied[number] = np.count_nonzero(candidates == own) - 1
    return above, tied


def _rank_global(
    task: TaskInputs,
    block: _Block,
    embeddings: Embeddings,
    vector_ids: IntArray,
    vectors: IntArray,
    counts: IntArray,
) -> tuple[IntArray, IntArray]:
    """(p,) twice, above and tied, among all candidates: vectors (V,) and how many candidates have each."""
    queries = embeddings[task.queries[block.queries]]
    places = np.searchsorted(vectors, vector_ids[task.answers[block.answers]])
    own = np.empty((len(queries), 1), dtype=np.float32)
    for start in np.unique(places // TILE) * TILE:
        inside = np.flatnonzero(places // TILE == start // TILE)
        scores = queries @ embeddings[vectors[start : start + TILE]].T
        own[inside, 0] = scores[inside, places[inside] - start]
    above, tied = np.zeros((2, len(queries)), dtype=np.int64)
    for start in range(0, len(vectors), TILE):
        scores = queries @ embeddings[vectors[start : start + TILE]].T
        weights = counts[start : start + TILE]
        above += np.where(scores > own, weights, 0).sum(axis=1)
        tied += np.where(scores == own, weights, 0).sum(axis=1)
    return above, tied - 1
