"""Streams of rows: the promises of the indexed sampler, as far as a buffer can keep them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from llave_hf.data.columns import side_columns
from llave_hf.data.pairs import Pair, TaskRows
from llave_hf.data.streaming import StreamedBatches, StreamedTask

WORLD_SIZES = (1, 2, 4)


def _task(name: str, queries: list[int], documents: list[int], weight: float = 1.0, chunk: int = 7) -> StreamedTask:
    def chunks() -> Iterator[TaskRows]:
        for start in range(0, len(queries), chunk):
            part = slice(start, start + chunk)
            table = pa.table({"q": [f"q{n}" for n in queries[part]], "d": [f"d{n}" for n in documents[part]]})
            query, positive = side_columns(table, "q", "", ""), side_columns(table, "d", "", "")
            numbers = np.arange(start, start + len(query))
            yield TaskRows(
                name, weight, None, numbers, query, positive, None, np.zeros(len(query) + 1, dtype=np.int64)
            )

    return StreamedTask(name, chunks, weight)


def _global(tasks: list[StreamedTask], size: int, world_size: int, epoch: int = 0, **kwargs: int) -> list[list[Pair]]:
    of_ranks = []
    for rank in range(world_size):
        stream = StreamedBatches(tasks, size // world_size, rank=rank, world_size=world_size, **kwargs)
        stream.set_epoch(epoch)
        of_ranks.append(list(DataLoader(stream, batch_size=None)))
    return [[pair for part in parts for pair in part] for parts in zip(*of_ranks, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    kinds=st.sampled_from([3, 20, 400]),
    size=st.sampled_from([4, 8]),
    seed=st.integers(0, 2**31),
)
def test_promises_of_a_stream(sizes: list[int], kinds: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks = [
        _task(f"task{i}", rng.integers(0, 400, n).tolist(), rng.integers(0, kinds, n).tolist())
        for i, n in enumerate(sizes)
    ]
    plans = [_global(tasks, size, world_size, epoch=1, buffer_size=1000, seed=seed) for world_size in WORLD_SIZES]
    assert plans[0] == plans[1] == plans[2]
    assert all(len({pair.source for pair in batch}) == 1 for batch in plans[0])
    used = Counter((pair.source, pair.row) for batch in plans[0] for pair in batch)
    assert set(used.values()) <= {1}
    assert len(plans[0]) == sum(n // size for n in sizes)
    for batch in plans[0]:
        # All rows are in the buffer: a batch repeats only where too few documents were left to fill it.
        if kinds == 400 and sum(b[0].source == batch[0].source for b in plans[0][plans[0].index(batch) :]) > 3:
            assert len({pair.query.text for pair in batch}) == len({pair.positive.text for pair in batch}) == size


def test_rows_that_repeat_wait_and_are_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    tasks = [_task("labels", list(range(43)), [n % 2 for n in range(43)])]
    with caplog.at_level(logging.WARNING, "llave_hf.data.streaming"):
        _global(tasks, 4, 1)
    assert "10 batches repeat a query or document" in caplog.text
    assert "3 rows filled no batch" in caplog.text
    caplog.clear()
    batches = _global([_task("halves", list(range(40)), [n // 2 for n in range(40)])], 2, 1, buffer_size=4)
    assert len(batches) == 20
    assert sum(a.positive == b.positive for a, b in batches) <= 1  # the last two rows may be equal
    assert {pair.row for batch in batches[:2] for pair in batch} <= set(range(6))  # no more than the buffer is read


def test_order_follows_seed_epoch_and_weight() -> None:
    tasks = [_task("a", *[list(range(400))] * 2, weight=3.0), _task("b", *[list(range(400))] * 2)]
    first = _global(tasks, 4, 1)
    assert first == _global(tasks, 4, 1)
    assert first != _global(tasks, 4, 1, epoch=1)
    assert first != _global(tasks, 4, 1, seed=1)
    early = Counter(batch[0].source for batch in first[:80])
    assert 45 <= early["a"] <= 75  # 60 are expected


@pytest.mark.parametrize("done", [0, 1, 9])
def test_resume_by_count(done: int) -> None:
    tasks = [_task("a", list(range(60)), [n % 30 for n in range(60)]), _task("b", *[list(range(50))] * 2)]
    for rank in range(2):
        stream = StreamedBatches(tasks, 4, rank=rank, world_size=2, buffer_size=16)
        unbroken = list(stream)
        stream.skip_batches = done
        assert list(stream) == unbroken[done:] != []
        assert list(stream) == unbroken  # the next epoch is whole


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 1}, "rank is 1 of 1"),
        ({"buffer_size": 3}, "buffer_size is 3; it must hold a global batch of 4 rows"),
        ({"tasks": []}, "got no task"),
    ],
)
def test_refuses_what_cannot_work(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamedBatches(**{"tasks": [_task("a", [0], [0])], "batch_size": 4, **kwargs})


def test_several_workers_are_refused() -> None:
    stream = StreamedBatches([_task("a", [0, 1], [0, 1])], 1)
    with pytest.raises(ValueError, match="set dataloader_num_workers to 0 or 1"):
        list(DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork"))
