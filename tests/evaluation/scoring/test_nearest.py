"""What a ranking keeps beside the ranks, against all scores at once in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_helpers import run_ranks

from llave_hf.evaluation.benchmark.benchmark import Task
from llave_hf.evaluation.benchmark.collection import TaskInputs
from llave_hf.evaluation.modules.scores import similarity_overlap
from llave_hf.evaluation.retrieval import block_scoring, retrieval
from llave_hf.evaluation.scoring.nearest import NEAREST, NOBODY, HighestScores, Nearest
from llave_hf.evaluation.scoring.similarities import Similarities

CANDIDATES, QUERIES = 100, 13


def make(pool: str, seed: int = 0) -> tuple[TaskInputs, np.ndarray]:
    """Queries with one to three answers, some candidates with equal vectors, local lists of 1 to 40."""
    generator = np.random.default_rng(seed)
    embeddings = generator.standard_normal((CANDIDATES + QUERIES, 6)).astype(np.float32)
    embeddings[20:90] = embeddings[generator.integers(0, 12, 70)]
    lists = [generator.permutation(CANDIDATES)[: generator.integers(4, 40)].astype(np.int32) for _ in range(QUERIES)]
    counts = generator.integers(1, 4, QUERIES)
    lists[3] = lists[3][: counts[3]]  # nothing but answers
    task = TaskInputs(
        Task("T", "retrieval", "in", pool=pool),
        queries=np.arange(CANDIDATES, CANDIDATES + QUERIES),
        answers=np.concatenate([numbers[:count] for numbers, count in zip(lists, counts, strict=True)]).astype(int),
        pools=lists if pool == "local" else [np.arange(CANDIDATES, dtype=np.int32)],
        answer_queries=np.repeat(np.arange(QUERIES), counts),
    )
    return task, embeddings


def score(task: TaskInputs, embeddings: np.ndarray) -> Nearest:
    (scored,) = retrieval.score_tasks([task], embeddings, retrieval.normalise(embeddings))
    return scored.nearest


def dense(task: TaskInputs, embeddings: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """The cosines of a query's answers and of its other candidates."""
    exact = embeddings.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert task.answer_queries is not None
    answers = task.answers[task.answer_queries == row]
    pool = task.pools[row if task.task.pool == "local" else 0]
    wrong = pool[~np.isin(pool, answers)]
    query = exact[task.queries[row]]
    return exact[answers] @ query, exact[wrong] @ query


@pytest.mark.parametrize("pool", ["local", "global"])
@pytest.mark.parametrize(("tile", "queries"), [(3, 1), (17, 5), (50, 8), (8192, 256)])
def test_cosines_are_those_of_all_scores_at_once(
    pool: str, tile: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_scoring, "TILE", tile)
    for name in ("GLOBAL_QUERIES", "LOCAL_QUERIES"):
        monkeypatch.setattr(retrieval, name, queries)
    task, embeddings = make(pool, seed=tile)
    nearest = score(task, embeddings)
    assert task.answer_queries is not None
    some_tied = False
    for row in range(QUERIES):
        answers, wrong = dense(task, embeddings, row)
        np.testing.assert_allclose(nearest.answers[task.answer_queries == row], answers, atol=1e-6)
        hardest = np.sort(wrong)[::-1][:NEAREST]
        np.testing.assert_allclose(nearest.cosines[row, : len(hardest)], hardest, atol=1e-6)
        assert np.isnan(nearest.cosines[row, len(hardest) :]).all()
        if len(hardest):
            tied = np.count_nonzero(np.abs(wrong - hardest[-1]) < 1e-7)
            some_tied |= tied > 1
            assert nearest.tied[row] == tied
    assert some_tied
    assert pool == "global" or nearest.tied[3] == 0


@pytest.mark.parametrize("pool", ["local", "global"])
def test_listed_inputs_have_the_cosines_and_are_no_answers(pool: str) -> None:
    task, embeddings = make(pool)
    nearest = score(task, embeddings)  # normalises the vectors in place
    assert task.answer_queries is not None
    for row in range(QUERIES):
        ids = nearest.negatives[row][nearest.negatives[row] != NOBODY]
        expected = embeddings[ids] @ embeddings[task.queries[row]]
        np.testing.assert_allclose(nearest.cosines[row, : len(ids)], expected, atol=1e-6)
        assert len(set(ids.tolist())) == len(ids)
        assert set(ids.tolist()) <= set(task.pools[row if pool == "local" else 0].tolist())
        assert not set(ids.tolist()) & set(task.answers[task.answer_queries == row].tolist())


@pytest.mark.parametrize("pool", ["local", "global"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_gets_what_one_gets(pool: str, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "GLOBAL_QUERIES", 4)
    monkeypatch.setattr(retrieval, "LOCAL_QUERIES", 4)
    task, embeddings = make(pool)
    vector_ids = retrieval.normalise(embeddings)
    (alone,) = retrieval.score_tasks([task], embeddings, vector_ids)
    work: Callable[[], Any] = lambda: retrieval.score_tasks([task], embeddings, vector_ids)  # noqa: E731
    for (scored,) in run_ranks(world_size, work, monkeypatch):
        for name in ("answers", "negatives", "cosines", "tied"):
            np.testing.assert_array_equal(getattr(scored.nearest, name), getattr(alone.nearest, name))
        np.testing.assert_array_equal(scored.ranks.above, alone.ranks.above)


@pytest.mark.parametrize("pool", ["local", "global"])
def test_constant_encoder_ties_everything(pool: str) -> None:
    task, embeddings = make(pool)
    embeddings[:] = embeddings[0]
    nearest = score(task, embeddings)
    assert task.answer_queries is not None
    wrong = task.candidates - np.bincount(task.answer_queries)
    assert nearest.tied.tolist() == wrong.tolist()
    for row in np.flatnonzero(wrong):
        assert (nearest.answers[task.answer_queries == row] == nearest.cosines[row, 0]).all()


def test_highest_scores_count_the_candidates_of_a_place() -> None:
    highest = HighestScores(1)
    highest.add(np.array([[0.5, 0.9]], dtype=np.float32), np.array([[7, 1]]))
    highest.add(np.array([[0.5, 0.1, 0.8, 0.7]], dtype=np.float32), np.array([[2, 1, 0, 3]]), start=2)
    assert highest.places[0].tolist() == [1, 5, 0, 2, 3]  # the place without candidates is left out
    assert [highest.tied_at(0, highest.scores[0, n]) for n in range(5)] == [1, 3, 9, 9, 1]
    highest.add(np.full((1, 4), 0.5, dtype=np.float32), np.full((1, 4), 10), start=6)
    assert highest.scores[0].tolist() == [np.float32(0.9), np.float32(0.7), 0.5, 0.5, 0.5]
    assert highest.tied_at(0, np.float32(0.5)) == 49
    highest.add(np.full((1, 1), 0.5, dtype=np.float32), np.full((1, 1), 3), start=10)
    assert highest.tied_at(0, np.float32(0.5)) == 52  # also those that are not listed


def test_overlap_is_that_of_the_module_for_lists_of_scores() -> None:
    task, embeddings = make("local", seed=5)
    task = TaskInputs(task.task, task.queries[:3], np.array([0, 1, 2]), task.pools[:3])
    task.pools[:] = [np.array([row, *range(10 + row, 40)], dtype=np.int32) for row in range(3)]
    found = Similarities.of(score(task, embeddings))
    scores = [
        (embeddings[pool] @ embeddings[query]).tolist() for query, pool in zip(task.queries, task.pools, strict=True)
    ]
    expected = similarity_overlap(scores, [0, 0, 0])
    assert found.overlap == expected["similarity_overlap"]
    assert found.positive == pytest.approx(expected["similarity_right"], abs=1e-6)
    assert found.hardest_negative == pytest.approx(expected["similarity_hardest_wrong"], abs=1e-6)
    hard = np.mean([np.sort(row[1:])[-NEAREST:].mean() for row in scores])
    assert found.hard == pytest.approx(hard, abs=1e-6)
    assert (int(found.positives.sum()), int(found.hardest.sum())) == (3, 3)


def test_subset_without_wrong_candidates_has_no_overlap() -> None:
    nearest = Nearest.empty(2, 2)
    nearest.answers[:] = [0.25, 0.75]
    found = Similarities.of(nearest)
    assert found.to_dict() == {
        "positive": 0.5,
        "hardest_negative": None,
        "hard": None,
        "overlap": None,
        "auc": None,
    }
    assert torch.equal(found.hardest, torch.zeros(1000, dtype=torch.int64))
