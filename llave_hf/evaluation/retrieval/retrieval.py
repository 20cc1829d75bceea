"""Ranks each query's answers among its candidates, in tiles of bounded memory.

Scores are cosines in float32. Only exactly equal scores are ties, so equal vectors must get bitwise equal scores; but
a matrix product may round the same row differently in different places. Hence each distinct *vector* is scored once a
query, and its score is shared by all inputs that have it: an encoder that maps everything to one vector ties
everything, whatever the BLAS. Where a tile is scored twice, it is the same product again, to the same bits.

The cut into blocks of queries and tiles of candidates does not depend on the number of ranks, and each block is ranked
by one of them: the ranks of the answers are the same on any number of processes.

Beside the ranks, each query's hardest negatives are kept (see `nearest.py`).

Shapes: M distinct inputs, Q queries, P answers, D dimensions; q queries and p answers of a block, V distinct vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from llave_hf import distributed
from llave_hf.evaluation.benchmark.collection import TaskInputs
from llave_hf.evaluation.scoring.metrics import AnswerRanks, IntArray
from llave_hf.evaluation.scoring.nearest import Nearest

from .block_scoring import Block, Pool, score_global, score_local
from .vectors import Embeddings

LOCAL_QUERIES = 32  # a block's queries with candidates of their own
LOCAL_CANDIDATES = 1 << 18  # and how many candidates these have together (a single longer list apart)
GLOBAL_QUERIES = 256
ROWS_AT_ONCE = 8192  # normalised at once


class Scored(NamedTuple):
    """Where a subset's answers stand, and which wrong candidates are nearest to its queries."""

    ranks: AnswerRanks
    nearest: Nearest


def rank_tasks(tasks: Sequence[TaskInputs], embeddings: Embeddings, vector_ids: IntArray) -> list[AnswerRanks]:
    """The ranks of :func:`score_tasks` alone."""
    return [scored.ranks for scored in score_tasks(tasks, embeddings, vector_ids)]


def score_tasks(
    tasks: Sequence[TaskInputs], embeddings: Embeddings, vector_ids: IntArray, *, show_progress: bool = False
) -> list[Scored]:
    """Rank every answer of every subset; with several ranks each does a share, and all get everything.

    Args:
        embeddings: (M, D), L2-normalised.
        vector_ids: (M,) from :func:`normalise`.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    blocks = [(number, block) for number, task in enumerate(tasks) for block in _blocks(task, vector_ids)]
    own = blocks[rank::world_size]
    found = []
    pools: dict[int, Pool] = {}
    for number, block in tqdm(own, desc="Scoring", unit="block", disable=not show_progress or rank != 0):
        task = tasks[number]
        if task.task.pool == "global":
            if number not in pools:
                pools = {number: Pool.of(task.pools[0], vector_ids)}
            found.append(score_global(task, block, embeddings, vector_ids, pools[number]))
        else:
            found.append(score_local(task, block, embeddings, vector_ids))
    above, tied = ([np.zeros(len(task.answers), dtype=np.int64) for task in tasks] for _ in range(2))
    nearest = [Nearest.empty(len(task.queries), len(task.answers)) for task in tasks]
    for share, parts in enumerate(distributed.all_gather_object(found)):
        for (number, block), part in zip(blocks[share::world_size], parts, strict=True):
            above[number][block.answers], tied[number][block.answers] = part.above, part.tied
            nearest[number].put(part.nearest, np.unique(block.queries), block.answers)
    return [
        Scored(
            AnswerRanks(above[number], tied[number], task.candidates, task.answer_queries, task.gains), nearest[number]
        )
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


def _blocks(task: TaskInputs, vector_ids: IntArray) -> Iterator[Block]:
    """The task's answers, cut so that each block fits in memory."""
    queries = np.arange(len(task.answers)) if task.answer_queries is None else task.answer_queries
    if task.task.pool == "global":
        yield from _global_blocks(queries, vector_ids[task.answers])
        return
    lengths = task.candidates
    start = 0
    while start < len(lengths):
        stop, total = start + 1, lengths[start]
        while stop < min(len(lengths), start + LOCAL_QUERIES) and total + lengths[stop] <= LOCAL_CANDIDATES:
            total += lengths[stop]
            stop += 1
        answers = np.arange(*np.searchsorted(queries, [start, stop]))
        yield Block(answers, queries[answers])
        start = stop


def _global_blocks(queries: IntArray, places: IntArray) -> Iterator[Block]:
    """Whole queries, by the place of their first answer, so that a block's answers lie in few tiles.

    Args:
        queries: (P,) ascending.
        places: (P,) where the answers stand.
    """
    distinct, firsts, counts = np.unique(queries, return_index=True, return_counts=True)
    order = np.argsort(places[firsts], kind="stable")
    ends = np.cumsum(counts[order])
    start = 0
    while start < len(distinct):
        limit = (ends[start - 1] if start else 0) + GLOBAL_QUERIES
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        answers = np.concatenate([np.arange(firsts[n], firsts[n] + counts[n]) for n in order[start:stop]])
        yield Block(answers, queries[answers])
        start = stop
