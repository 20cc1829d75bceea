"""Retrieval metrics with ties scored by expectation, for one right answer a query or several, graded or not.

A query's candidates are ordered by score. Where other candidates have exactly the score of the answer, the order among
them is arbitrary: taking the first (`argmax`, a stable sort) gives an encoder that maps everything to one vector a
precision@1 of 1.0 wherever the answer is listed first, as MMEB lists it. Here every order of the tied candidates
counts equally, so that such an encoder scores exactly chance, 1 / candidates.

All metrics are functions of two numbers an answer (see :class:`AnswerRanks`): how many candidates lie strictly above
it, and how many others share its score. Its rank is then uniform on `above + 1 .. above + tied + 1`. Each metric is a
sum over a query's answers, so that its expectation needs nothing else, also where several answers are tied.

Shapes: Q queries, C candidates, P answers (Q where each query has one).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PerQueryMetric = Callable[["AnswerRanks"], FloatArray]


@dataclass(frozen=True, slots=True)
class AnswerRanks:
    """Where the answers stand; all that the metrics need to know about the scores.

    Attributes:
        above: (P,) candidates with a score strictly above the answer's.
        tied: (P,) *other* candidates with exactly the answer's score.
        candidates: (Q,) candidates of the query, its answers included.
        queries: (P,) the query of each answer, ascending; None: one answer a query, in order.
        gains: (P,) how good an answer it is, above 0; None: all are equally good.
    """

    above: IntArray
    tied: IntArray
    candidates: IntArray
    queries: IntArray | None = None
    gains: FloatArray | None = None

    def query_numbers(self) -> IntArray:
        """(P,) the query of each answer."""
        return np.arange(len(self.above)) if self.queries is None else self.queries

    def total(self, values: FloatArray) -> FloatArray:
        """(P,) -> (Q,): the sum over each query's answers."""
        sums = np.bincount(self.query_numbers(), values, minlength=len(self.candidates))
        return sums.astype(np.float64, copy=False)


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
    """(Q,) probability that an answer comes first when ties are broken at random (MMEB's Precision@1 = Hit@1)."""
    return ranks.total(np.where(ranks.above == 0, 1.0 / (ranks.tied + 1), 0.0))


def precision_at_1_bounds(ranks: AnswerRanks) -> tuple[FloatArray, FloatArray]:
    """(Q,) twice, pessimistic and optimistic: all ties lost, all ties won. They differ only where there are ties."""
    return precision_at_1(without_ties(ranks, won=False)), precision_at_1(without_ties(ranks, won=True))


def recall_at_k(ranks: AnswerRanks, k: int) -> FloatArray:
    """(Q,) expected share of the answers among the first k when ties are broken at random."""
    _check_cutoff(k)
    found = np.clip(k - ranks.above, 0, ranks.tied + 1) / (ranks.tied + 1)
    return ranks.total(found) / ranks.total(np.ones_like(found))


def ndcg_at_k(ranks: AnswerRanks, k: int) -> FloatArray:
    """(Q,) expected nDCG@k over the orders of the ties, the gain being linear in the grade (trec_eval's, MMEB-V2's
    `ndcg_linear`): the mean of gain / log2(1 + rank) over the possible ranks, over that of the best order.
    """
    _check_cutoff(k)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    # discounted[r] = sum of the discounts of the ranks 1..r; ranks after k add nothing
    discounted = np.concatenate([[0.0], np.cumsum(discounts)])
    first, last = np.minimum(ranks.above, k), np.minimum(ranks.above + ranks.tied + 1, k)
    found = (discounted[last] - discounted[first]) / (ranks.tied + 1)
    if ranks.queries is None and ranks.gains is None:
        return found
    gains = np.ones_like(found) if ranks.gains is None else ranks.gains
    places = _places(ranks.query_numbers(), np.zeros_like(ranks.above), -gains)  # 0 for a query's best answer
    ideal = np.where(places < k, gains * discounts[np.minimum(places, k - 1)], 0.0)
    return ranks.total(gains * found) / ranks.total(ideal)


def chance(ranks: AnswerRanks) -> AnswerRanks:
    """The ranks that an encoder with one vector for everything gets: every other candidate tied with the answer."""
    others = ranks.candidates[ranks.query_numbers()] - 1
    return replace(ranks, above=np.zeros_like(ranks.above), tied=others)


def without_ties(ranks: AnswerRanks, *, won: bool) -> AnswerRanks:
    """The ranks when answers win all their ties with other candidates, or lose them; among tied answers the better
    one comes first, or last."""
    queries = ranks.query_numbers()
    gains = np.zeros(len(queries)) if ranks.gains is None else ranks.gains
    places = _places(queries, ranks.above, -gains if won else gains)
    if won:
        return replace(ranks, above=ranks.above + places, tied=np.zeros_like(ranks.tied))
    _, group = np.unique(np.stack([queries, ranks.above]), axis=1, return_inverse=True)
    tied_answers = np.bincount(group.reshape(-1))[group.reshape(-1)]
    last = ranks.above + ranks.tied + 1 - tied_answers + places
    return replace(ranks, above=last, tied=np.zeros_like(ranks.tied))


def _places(queries: IntArray, above: IntArray, key: FloatArray) -> IntArray:
    """(P,) each answer's place, from 0, by `key` among the answers with the same query and `above`."""
    order = np.lexsort((key, above, queries))
    same = (np.diff(queries[order]) == 0) & (np.diff(above[order]) == 0)
    starts = np.concatenate([[True], ~same])[: len(order)]
    numbers = np.arange(len(order))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = numbers - np.maximum.accumulate(np.where(starts, numbers, 0))
    return places


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


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise ValueError(f"A cut-off must be at least 1, not {k}.")
