from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_helpers import RecordingEncoder, make_row, random_encoder, run_ranks, write_benchmark
from PIL import Image

from llave_hf.evaluation.benchmark.benchmark import Task
from llave_hf.evaluation.benchmark.collection import TaskInputs, collect_inputs
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.inputs import DistinctInputs
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.evaluation.benchmark.rows import RowReader
from llave_hf.evaluation.retrieval import block_scoring, retrieval, vectors
from llave_hf.evaluation.scoring.metrics import AnswerRanks, rank_answers


def collect(path: Path) -> tuple[DistinctInputs, list[TaskInputs]]:
    benchmark = load_benchmark(path)
    return collect_inputs(benchmark, RowReader(benchmark))


def encode(model: Any, inputs: DistinctInputs, batch_size: int = 4) -> np.ndarray:
    return vectors.encode_inputs(model, inputs, batch_size=batch_size, show_progress=False)


def content_vector(entry: Any) -> list[float]:
    """A vector that tells texts and pictures apart."""
    if isinstance(entry, str):
        return [1.0, float(sum(entry.encode())), float(len(entry))]
    pictures = entry["video"] if "video" in entry else [entry["image"]]
    return [-1.0, *map(float, np.sum([picture.getpixel((0, 0)) for picture in pictures], axis=0)[:2])]


def test_every_input_is_encoded_once_and_stands_at_its_number(mixed_benchmark: Path) -> None:
    inputs, _ = collect(mixed_benchmark)
    model = RecordingEncoder(content_vector)
    embeddings = encode(model, inputs)
    assert len(model.seen) == len(inputs)
    expected = [content_vector(inputs.load(number)) for number in range(len(inputs))]
    np.testing.assert_array_equal(embeddings, np.array(expected, dtype=np.float32))
    assert max(model.batches) <= 4 * vectors.BATCHES_PER_CHUNK


def test_few_large_pictures_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Image.new("RGB", (10, 10), (number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [make_row("<|image_1|>", ["a", "b"], image=f"{number}.png") for number in range(5)]
    inputs, _ = collect(write_benchmark(tmp_path, {"A": rows}))
    monkeypatch.setattr(vectors, "CHUNK_PIXELS", 200)
    model = RecordingEncoder(content_vector)
    encode(model, inputs)
    assert model.batches == [4, 2, 1]  # two texts and two pictures, two pictures, one


@pytest.mark.parametrize(
    "convert",
    [
        lambda array: torch.tensor(array, dtype=torch.bfloat16),
        lambda array: [torch.tensor(row) for row in array],
        lambda array: array.astype(np.float64),
    ],
)
def test_tensors_and_lists_are_accepted(mixed_benchmark: Path, convert: Callable[[np.ndarray], Any]) -> None:
    class Converting(RecordingEncoder):
        def encode(self, inputs: list[Any], **_: Any) -> Any:
            return convert(super().encode(inputs))

    inputs, _ = collect(mixed_benchmark)
    embeddings = encode(Converting(lambda entry: [1.0, 0.5]), inputs)
    assert embeddings.dtype == np.float32 and (embeddings == [1.0, 0.5]).all()


def test_vector_that_is_not_finite_is_named(mixed_benchmark: Path) -> None:
    inputs, _ = collect(mixed_benchmark)
    model = RecordingEncoder(lambda entry: [np.nan if entry == "question 7" else 1.0, 0.0])
    with pytest.raises(ValueError, match=r"question 7.*Questions, row 7.*not finite"):
        encode(model, inputs)


def test_wrong_number_of_vectors_is_refused(mixed_benchmark: Path) -> None:
    class Short(RecordingEncoder):
        def encode(self, inputs: list[Any], **_: Any) -> np.ndarray:
            return super().encode(inputs)[:-1]

    inputs, _ = collect(mixed_benchmark)
    with pytest.raises(ValueError, match="one vector each"):
        encode(Short(lambda entry: [1.0]), inputs)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_inputs_and_all_get_all_vectors(
    mixed_benchmark: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    inputs, _ = collect(mixed_benchmark)
    alone = encode(RecordingEncoder(content_vector), inputs)
    models: list[RecordingEncoder] = []

    def work() -> np.ndarray:
        models.append(RecordingEncoder(content_vector))
        return encode(models[-1], inputs)

    for embeddings in run_ranks(world_size, work, monkeypatch):
        np.testing.assert_array_equal(embeddings, alone)
    shares = [len(model.seen) for model in models]
    assert sum(shares) == len(inputs) and max(shares) - min(shares) <= 1


def test_more_ranks_than_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, _ = collect(write_benchmark(tmp_path, {"A": [make_row("q", ["a"])]}))
    results = run_ranks(3, lambda: encode(RecordingEncoder(content_vector), inputs), monkeypatch)
    assert [embeddings.shape for embeddings in results] == [(2, 3)] * 3


def test_failure_of_one_rank_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [make_row("q", ["a", "b"]), make_row("<|image_1|>", ["a", "b"], image="broken.png")]
    inputs, _ = collect(write_benchmark(tmp_path, {"A": rows}))
    results = run_ranks(2, lambda: encode(RecordingEncoder(content_vector), inputs), monkeypatch)
    assert sorted(type(result).__name__ for result in results) == ["BenchmarkError", "RuntimeError"]
    told = next(result for result in results if not isinstance(result, BenchmarkError))
    assert "broken.png" in str(told) and "failed" in str(told)


def task_inputs(queries: list[int], pools: list[list[int]], pool: str = "local") -> TaskInputs:
    task = Task("T", "retrieval", "in", pool=pool)
    local = [np.array(numbers, dtype=np.int32) for numbers in pools]
    candidates = local if pool == "local" else [np.unique(np.concatenate(local))]
    return TaskInputs(task, np.array(queries), np.array([numbers[0] for numbers in pools]), candidates)


def rank(task: TaskInputs, embeddings: np.ndarray, vector_ids: np.ndarray) -> AnswerRanks:
    (ranks,) = retrieval.rank_tasks([task], embeddings, vector_ids)
    return ranks


@pytest.mark.parametrize("pool", ["local", "global"])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_those_of_a_loop_over_queries(seed: int, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(seed)
    monkeypatch.setattr(retrieval, "LOCAL_QUERIES", 4)
    embeddings = generator.standard_normal((40, 5)).astype(np.float32)
    embeddings[25:30] = embeddings[20:25]  # equal vectors of different inputs
    pools = [generator.permutation(40)[: generator.integers(1, 30)].tolist() for _ in range(11)]
    queries = generator.integers(0, 40, 11).tolist()
    vector_ids = retrieval.normalise(embeddings)
    ranks = rank(task_inputs(queries, pools, pool), embeddings, vector_ids)
    everything = sorted({number for numbers in pools for number in numbers})
    exact = embeddings.astype(np.float64)
    for number, (query, numbers) in enumerate(zip(queries, pools, strict=True)):
        candidates = numbers if pool == "local" else numbers[:1] + [c for c in everything if c != numbers[0]]
        expected = rank_answers([np.round(exact[candidates] @ exact[query], 6)])
        assert ranks.candidates[number] == len(candidates)
        assert (ranks.above[number], ranks.tied[number]) == (expected.above[0], expected.tied[0])


def dense_ranks(task: TaskInputs, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition for a global pool: all scores at once, in float64."""
    exact = embeddings.astype(np.float64)
    scores = np.round(exact[task.queries] @ exact[task.pools[0]].T, 6)
    answers = np.array([np.flatnonzero(task.pools[0] == answer)[0] for answer in task.answers])
    rows = np.arange(len(answers)) if task.answer_queries is None else task.answer_queries
    own = scores[rows, answers][:, None]
    return (scores[rows] > own).sum(axis=1), (scores[rows] == own).sum(axis=1) - 1


@pytest.mark.parametrize(("tile", "queries"), [(7, 4), (64, 1), (8192, 256)])
def test_tiles_of_a_global_pool_give_the_ranks_of_the_dense_way(
    tile: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_scoring, "TILE", tile)
    monkeypatch.setattr(retrieval, "GLOBAL_QUERIES", queries)
    generator = np.random.default_rng(tile)
    embeddings = generator.standard_normal((150, 6)).astype(np.float32)
    embeddings[60:100] = embeddings[generator.integers(0, 20, 40)]  # ties over tiles
    vector_ids = retrieval.normalise(embeddings)
    answer_queries = np.sort(np.concatenate([np.arange(9), generator.integers(0, 9, 12)]))
    task = TaskInputs(
        Task("T", "retrieval", "in", pool="global"),
        queries=generator.integers(100, 150, 9),
        answers=generator.integers(0, 100, 21),
        pools=[np.arange(100, dtype=np.int32)],
        answer_queries=answer_queries,
    )
    ranks = rank(task, embeddings, vector_ids)
    above, tied = dense_ranks(task, embeddings)
    assert tied.any()
    np.testing.assert_array_equal(ranks.above, above)
    np.testing.assert_array_equal(ranks.tied, tied)
    assert ranks.candidates.tolist() == [100] * 9


def test_memory_of_a_global_pool_is_that_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, queries, dimensions = 200_000, 200, 8
    monkeypatch.setattr(retrieval, "GLOBAL_QUERIES", 32)
    embeddings = np.random.default_rng(0).standard_normal((candidates + queries, dimensions)).astype(np.float32)
    vector_ids = retrieval.normalise(embeddings)
    task = TaskInputs(
        Task("T", "retrieval", "in", pool="global"),
        queries=np.arange(candidates, candidates + queries),
        answers=np.arange(queries),
        pools=[np.arange(candidates, dtype=np.int32)],
    )
    tracemalloc.start()
    ranks = rank(task, embeddings, vector_ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    dense = queries * candidates * 4
    assert peak < dense / 10, f"{peak:,} bytes; all scores at once are {dense:,}"
    above, _ = dense_ranks(replace(task, queries=task.queries[:3], answers=task.answers[:3]), embeddings)
    assert ranks.above[:3] == pytest.approx(above, abs=2)  # neighbours that differ in the seventh digit


def test_blocks_of_local_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "LOCAL_CANDIDATES", 10)
    embeddings = np.random.default_rng(1).standard_normal((40, 5)).astype(np.float32)
    vector_ids = retrieval.normalise(embeddings)
    task = task_inputs(list(range(20, 26)), [list(range(length)) for length in (4, 4, 4, 17, 1, 9)])
    whole = rank(task, embeddings, vector_ids)
    blocks = [block.queries.tolist() for block in retrieval._blocks(task, vector_ids)]
    assert blocks == [[0, 1], [2], [3], [4, 5]]
    monkeypatch.setattr(retrieval, "LOCAL_CANDIDATES", 1000)
    np.testing.assert_array_equal(rank(task, embeddings, vector_ids).above, whole.above)


@pytest.mark.parametrize("dimensions", [3, 37, 768])
@pytest.mark.parametrize("count", [3, 5, 7, 17, 97])
def test_equal_vectors_tie_bit_for_bit_wherever_they_stand(count: int, dimensions: int) -> None:
    """A plain matrix product of one query and 7 equal rows does not give 7 equal numbers (OpenBLAS, 768 columns)."""
    generator = np.random.default_rng(dimensions)
    vector, query = generator.standard_normal((2, dimensions)).astype(np.float32)
    embeddings = np.concatenate([np.tile(vector, (count, 1)), query[None]])
    vector_ids = retrieval.normalise(embeddings)
    assert vector_ids.tolist() == [0] * count + [count]
    ranks = rank(task_inputs([count], [list(range(count))[::-1]]), embeddings, vector_ids)
    assert (ranks.tied.tolist(), ranks.above.tolist()) == ([count - 1], [0])


def test_normalise_gives_unit_rows_keeps_zero_rows_and_takes_minus_zero_for_zero() -> None:
    embeddings = np.array([[3, 4], [0, 0], [-0.0, 0.0], [6, 8]], dtype=np.float32)
    assert retrieval.normalise(embeddings).tolist() == [0, 1, 1, 3]
    np.testing.assert_allclose(embeddings, [[0.6, 0.8], [0, 0], [0, 0], [0.6, 0.8]], rtol=1e-6)


def test_length_of_vectors_does_not_matter() -> None:
    embeddings = np.array([[1, 0], [0.1, 0.01], [50, 50]], dtype=np.float32)
    vector_ids = retrieval.normalise(embeddings)
    ranks = rank(task_inputs([0], [[1, 2]]), embeddings, vector_ids)
    assert ranks.above.tolist() == [0]


def test_random_encoder_is_near_chance(mixed_benchmark: Path) -> None:
    inputs, tasks = collect(mixed_benchmark)
    shares = []
    for seed in range(40):
        embeddings = encode(random_encoder(seed), inputs)
        vector_ids = retrieval.normalise(embeddings)
        ranks = rank(tasks[1], embeddings, vector_ids)
        shares.append(np.mean((ranks.above == 0) * ranks.candidates))  # 1 at chance, query by query
    assert np.mean(shares) == pytest.approx(1.0, abs=0.25)
