"""Retrieval metrics for one right answer a query, with ties scored by expectation.

A query's candidates are ordered by score. Where other candidates have exactly the score of the answer, the order among
them is arbitrary: taking the first (`argmax`, a stable sort) gives an encoder that maps everything to one vector a
precision@1 of 1.0 wherever the answer is listed first, as MMEB lists it. Here every order of the tied candidates
counts equally, so that such an encoder scores exactly chance, 1 / candidates.

All metrics are functions of two numbers a query (see :class:`AnswerRanks`): how many candidates lie strictly above the
answer, and how many others share its score. The answer's rank is then uniform on `above + 1 .. above + tied + 1`.

Shapes: Q queries, C candidates.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PerQueryMetric = Callable[["AnswerRanks"], FloatArray]

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True)
class AnswerRanks:
    """Where the answers stand; all that the metrics need to know about the scores.

    Attributes:
        above: (Q,) candidates with a score strictly above the answer's.
        tied: (Q,) *other* candidates with exactly the answer's score.
        candidates: (Q,) candidates of the query, the answer included.
    """

    above: IntArray
    tied: IntArray
    candidates: IntArray


def rank_answers(scores: ArrayLike, answers: ArrayLike = 0, present: ArrayLike | None = None) -> AnswerRanks:
    """Rank every query's answer among its candidates.

    Args:
        scores: (Q, C), larger is better.
        answers: (Q,) column of the answer, or one number for all queries.
        present: (Q, C), False where a column is no candidate of the query (lists of unequal length); None: all are.

    Raises:
        ValueError: a score of a candidate is not a number (NaN compares as neither above nor tied, and would make
            every answer the best), or an answer is not among its candidates.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores must have two dimensions (queries, candidates), not the shape {scores.shape}.")
    rows = np.arange(len(scores))
    columns = np.broadcast_to(np.asarray(answers, dtype=np.int64), rows.shape)
    mask = np.ones(scores.shape, dtype=bool) if present is None else np.asarray(present, dtype=bool)
    if len(rows) and (columns.min() < 0 or columns.max() >= scores.shape[1] or not mask[rows, columns].all()):
        raise ValueError(f"An answer is not among the {scores.shape[1]} candidates of its query: check `answers`.")
    broken = (np.isnan(scores) & mask).any(axis=1)
    if broken.any():
        raise ValueError(f"The scores of query {int(broken.argmax())} contain NaN: check the embeddings.")
    answer_scores = scores[rows, columns][:, None]
    return AnswerRanks(
        above=((scores > answer_scores) & mask).sum(axis=1),
        tied=((scores == answer_scores) & mask).sum(axis=1) - 1,
        candidates=mask.sum(axis=1),
    )


def precision_at_1(ranks: AnswerRanks) -> FloatArray:
    """(Q,) probability that the answer comes first when ties are broken at random (MMEB's Precision@1 = Hit@1)."""
    return np.where(ranks.above == 0, 1.0 / (ranks.tied + 1), 0.0)


def precision_at_1_bounds(ranks: AnswerRanks) -> tuple[FloatArray, FloatArray]:
    """(Q,) twice, pessimistic and optimistic: all ties lost, all ties won. They differ only where there are ties."""
    return ((ranks.above + ranks.tied) == 0).astype(np.float64), (ranks.above == 0).astype(np.float64)


def recall_at_k(ranks: AnswerRanks, k: int) -> FloatArray:
    """(Q,) probability that the answer is among the first k when ties are broken at random."""
    _check_cutoff(k)
    return np.clip(k - ranks.above, 0, ranks.tied + 1) / (ranks.tied + 1)


def ndcg_at_k(ranks: AnswerRanks, k: int) -> FloatArray:
    """(Q,) expected nDCG@k over the orders of the ties: the mean of 1 / log2(1 + rank) over the possible ranks.

    With one relevant candidate the ideal DCG is 1, and linear and exponential gain agree.
    """
    _check_cutoff(k)
    # discounted[r] = sum of the discounts of the ranks 1..r; ranks after k add nothing
    discounted = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    first, last = np.minimum(ranks.above, k), np.minimum(ranks.above + ranks.tied + 1, k)
    return (discounted[last] - discounted[first]) / (ranks.tied + 1)


def chance(ranks: AnswerRanks) -> AnswerRanks:
    """The ranks that an encoder with one vector for everything gets: every other candidate tied with the answer."""
    return AnswerRanks(np.zeros_like(ranks.above), ranks.candidates - 1, ranks.candidates)


def per_query_metric(name: str) -> PerQueryMetric:
    """The metric that a benchmark file names: `precision_at_1`, `recall_at_K` or `ndcg_at_K`.

    Raises:
        ValueError: there is no such metric.
    """
    if name == "precision_at_1":
        return precision_at_1
    match = re.fullmatch(r"(recall|ndcg)_at_([1-9]\d*)", name)
    if match is None:
        raise ValueError(
            f"There is no metric {name!r}: choose precision_at_1, recall_at_K or ndcg_at_K (K = 1, 2, …)."
        )
    function, k = {"recall": recall_at_k, "ndcg": ndcg_at_k}[match[1]], int(match[2])
    return lambda ranks: function(ranks, k)


def bootstrap_interval(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries; the same numbers in every run.

    Drawing n queries with replacement is drawing how often each distinct value occurs from a multinomial distribution,
    which costs `resamples` x (distinct values) instead of `resamples` x n. Values that are all equal (all right, all
    wrong) give an interval of no width: the percentile bootstrap says nothing about what it has not seen.

    Raises:
        ValueError: no values.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    n = int(counts.sum())
    if n == 0:
        raise ValueError("A bootstrap interval needs at least one query.")
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)  # (resamples, distinct values)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn @ distinct / n, [tail, 1.0 - tail])
    return float(low), float(high)


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise ValueError(f"A cut-off must be at least 1, not {k}.")
