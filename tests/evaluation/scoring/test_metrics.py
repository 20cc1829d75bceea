from __future__ import annotations

import json
from itertools import chain, permutations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from llave_hf.evaluation.scoring import metrics, resampling

FIXTURES = Path(__file__).parents[2] / "fixtures" / "metrics"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
TENSORS = load_file(FIXTURES / "inputs.safetensors")


def average_over_orders(scores: np.ndarray, value_of_rank) -> float:
    """The definition: the mean of a metric over all orders of the candidates that agree with the scores."""
    values = []
    for order in permutations(range(len(scores))):
        ordered = scores[list(order)]
        if (ordered[:-1] >= ordered[1:]).all():
            values.append(value_of_rank(order.index(0) + 1))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(6))
def test_metrics_are_the_mean_over_all_orders_of_ties(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 3, size=(8, 5)).astype(np.float32)
    ranks = metrics.rank_answers(scores)
    definitions = {
        "precision_at_1": lambda rank: rank == 1,
        "recall_at_2": lambda rank: rank <= 2,
        "recall_at_9": lambda rank: rank <= 9,
        "ndcg_at_3": lambda rank: (rank <= 3) / np.log2(1 + rank),
        "ndcg_at_10": lambda rank: (rank <= 10) / np.log2(1 + rank),
    }
    for name, value_of_rank in definitions.items():
        expected = [average_over_orders(row, value_of_rank) for row in scores]
        np.testing.assert_allclose(metrics.per_query_metric(name)(ranks), expected, atol=1e-12, err_msg=name)


def test_bounds_are_the_worst_and_the_best_order() -> None:
    ranks = metrics.rank_answers([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    pessimistic, optimistic = metrics.precision_at_1_bounds(ranks)
    assert pessimistic.tolist() == [0, 1, 0]
    assert optimistic.tolist() == [1, 1, 0]
    assert metrics.precision_at_1(ranks).tolist() == [0.5, 1, 0]


def test_equal_scores_are_chance_exactly() -> None:
    ranks = metrics.rank_answers(np.full((7, 100), 0.3, dtype=np.float32))
    assert (metrics.precision_at_1(ranks) == 1 / 100).all()
    assert (metrics.precision_at_1(ranks) == metrics.precision_at_1(metrics.chance(ranks))).all()


def test_absent_candidates_do_not_count() -> None:
    scores = np.array([[0.5, 0.9, 0.5]])
    ranks = metrics.rank_answers(scores, present=[[True, False, True]])
    assert (ranks.above.tolist(), ranks.tied.tolist(), ranks.candidates.tolist()) == ([0], [1], [2])


@pytest.mark.parametrize("case", EXPECTED["precision_at_1"], ids=lambda case: case["query"])
def test_published_precision_at_1_is_the_optimistic_bound(case: dict) -> None:
    """Published: the answer is at 0 and ties go to the lowest index, so each tie is won."""
    query, candidates = TENSORS[case["query"]], TENSORS[case["candidates"]]
    if case["normalize"]:
        query = query / np.linalg.norm(query, axis=-1, keepdims=True)
        candidates = candidates / np.linalg.norm(candidates, axis=-1, keepdims=True)
    ranks = metrics.rank_answers(np.einsum("qd,qcd->qc", query, candidates))
    right = [prediction == 0 for prediction in case["predictions"]]
    pessimistic, optimistic = metrics.precision_at_1_bounds(ranks)
    assert optimistic.tolist() == right
    assert optimistic.mean() == pytest.approx(case["accuracy"])
    expected = metrics.precision_at_1(ranks)
    assert (pessimistic <= expected).all() and (expected <= optimistic).all()
    untied = ranks.tied == 0
    assert untied.any() and (expected == optimistic)[untied].all()


def assert_retrieval(expected: dict, ranks: metrics.AnswerRanks) -> None:
    for k in (1, 5, 10):
        assert 100 * metrics.recall_at_k(ranks, k).mean() == pytest.approx(expected[f"R{k}"], abs=1e-4)
    if "cols" in expected:
        assert ranks.above.tolist() == expected["cols"]


@pytest.mark.parametrize(
    "case", [case for case in EXPECTED["retrieval"] if not case["has_ties"]], ids=lambda c: c["tensor"]
)
def test_recall_is_the_published_one_without_ties(case: dict) -> None:
    scores = TENSORS[case["tensor"]]
    diagonal = np.arange(len(scores))
    assert_retrieval(case["text_to_video"], metrics.rank_answers(scores, diagonal))
    assert_retrieval(case["video_to_text"], metrics.rank_answers(scores.T, diagonal))


def test_recall_counts_each_query_once_where_the_published_code_lists_all_tied_ranks() -> None:
    case = next(case for case in EXPECTED["retrieval"] if case["has_ties"])
    scores = TENSORS[case["tensor"]]
    ranks = metrics.rank_answers(scores, np.arange(len(scores)))
    possible = [list(range(above, above + tied + 1)) for above, tied in zip(ranks.above, ranks.tied, strict=True)]
    assert list(chain.from_iterable(possible)) == case["text_to_video"]["cols"]
    for k in (1, 3, 5):
        expected = [np.mean(np.array(positions) < k) for positions in possible]
        np.testing.assert_allclose(metrics.recall_at_k(ranks, k), expected)


@pytest.mark.parametrize("case", EXPECTED["retrieval_multi_caption"], ids=lambda case: case["tensor"])
def test_recall_of_several_captions_a_video_is_the_published_one(case: dict) -> None:
    scores = TENSORS[case["tensor"]]
    video_of_caption = np.repeat(np.arange(scores.shape[1]), case["captions_per_video"])
    assert_retrieval(case["text_to_video"], metrics.rank_answers(scores, video_of_caption))
    starts = np.cumsum([0, *case["captions_per_video"][:-1]])
    best_caption = np.maximum.reduceat(scores, starts, axis=0)  # (texts grouped by video, videos)
    assert_retrieval(case["video_to_text"], metrics.rank_answers(best_caption.T, np.arange(scores.shape[1])))


def test_nan_scores_are_refused_and_absent_ones_ignored() -> None:
    scores = np.array([[0.1, 0.2], [0.3, np.nan]])
    with pytest.raises(ValueError, match="query 1 contain NaN"):
        metrics.rank_answers(scores)
    ranks = metrics.rank_answers(scores, present=[[True, True], [True, False]])
    assert ranks.above.tolist() == [1, 0]


@pytest.mark.parametrize(("answers", "present"), [(2, None), (-1, None), (1, [[True, False]])])
def test_answer_that_is_no_candidate_is_refused(answers: int, present: list | None) -> None:
    with pytest.raises(ValueError, match="not among the 2 candidates"):
        metrics.rank_answers([[0.1, 0.2]], answers, present)


@pytest.mark.parametrize("name", ["accuracy", "recall_at_0", "ndcg_at_", "precision_at_5"])
def test_unknown_metric_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no metric '{name}'"):
        metrics.per_query_metric(name)


def test_cutoff_must_be_positive() -> None:
    ranks = metrics.rank_answers([[0.1, 0.2]])
    with pytest.raises(ValueError, match="at least 1"):
        metrics.recall_at_k(ranks, 0)


def test_bootstrap_agrees_with_resampling_queries_one_by_one() -> None:
    values = np.random.default_rng(3).choice([0.0, 0.25, 1.0], size=200, p=[0.6, 0.1, 0.3])
    drawn = np.random.default_rng(4).integers(0, len(values), size=(20_000, len(values)))
    expected = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    np.testing.assert_allclose(resampling.bootstrap_interval(values), expected, atol=0.006)


def test_bootstrap_is_deterministic_ordered_and_ignores_the_order_of_queries() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.5, 0.0])
    interval = resampling.bootstrap_interval(values)
    assert interval == resampling.bootstrap_interval(values[::-1])
    assert 0.0 <= interval[0] < values.mean() < interval[1] <= 1.0
    assert resampling.bootstrap_interval([1.0, 1.0]) == (1.0, 1.0)
    narrow = resampling.bootstrap_interval(values, confidence=0.5)
    assert interval[0] < narrow[0] < narrow[1] < interval[1]
    with pytest.raises(ValueError, match="at least one query"):
        resampling.bootstrap_interval([])


def relevant_ranks(scores: np.ndarray, grades: np.ndarray) -> metrics.AnswerRanks:
    """Ranks of every candidate with a grade; all arrays (Q, C)."""
    queries, columns = np.nonzero(grades)
    own = scores[queries, columns][:, None]
    return metrics.AnswerRanks(
        above=(scores[queries] > own).sum(axis=1),
        tied=(scores[queries] == own).sum(axis=1) - 1,
        candidates=np.full(len(scores), scores.shape[1]),
        queries=queries,
        gains=grades[queries, columns].astype(np.float64),
    )


def graded_value(name: str, k: int, grades: np.ndarray) -> float:
    """A metric of one order, by its definition; grades (C,) in that order."""
    discounts = 1 / np.log2(np.arange(2, len(grades) + 2))
    if name == "ndcg":
        return float((grades * discounts)[:k].sum() / (np.sort(grades)[::-1] * discounts)[:k].sum())
    return float((grades[:k] > 0).sum() / (1 if name == "precision" else (grades > 0).sum()))


@pytest.mark.parametrize("seed", range(5))
def test_several_graded_answers_are_scored_by_the_mean_over_all_orders_of_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 3, size=(6, 5)).astype(np.float32)
    grades = generator.integers(0, 3, size=(6, 5))
    grades[np.arange(6), generator.integers(0, 5, 6)] = 2  # at least one answer each
    ranks = relevant_ranks(scores, grades)
    lost, won = metrics.without_ties(ranks, won=False), metrics.without_ties(ranks, won=True)
    for name, k in (("precision", 1), ("recall", 2), ("ndcg", 1), ("ndcg", 3), ("ndcg", 9)):
        function = metrics.per_query_metric(f"{name}_at_{k}")
        orders = [
            [
                graded_value(name, k, of[list(order)])
                for order in permutations(range(5))
                if (np.diff(row[list(order)]) <= 0).all()
            ]
            for row, of in zip(scores, grades, strict=True)
        ]
        np.testing.assert_allclose(function(ranks), list(map(np.mean, orders)), atol=1e-12, err_msg=f"{name} {k}")
        np.testing.assert_allclose(function(lost), list(map(min, orders)), atol=1e-12, err_msg=f"{name} {k} lost")
        np.testing.assert_allclose(function(won), list(map(max, orders)), atol=1e-12, err_msg=f"{name} {k} won")
    constant = metrics.chance(ranks)
    assert (constant.above == 0).all() and (constant.tied == 4).all()
