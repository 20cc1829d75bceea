"""Batches from streams: the promises of the indexed sampler, as far as a buffer can keep them."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from accelerate import skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_together import batches_of_ranks, joined

from llave_hf.data import Pair, StreamedBatches, StreamedPairs, TaskBatchSampler, stream_pairs
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.data.streaming.shards import Shard
from llave_hf.data.streaming.sources import StreamedSubset
from llave_hf.data.streaming.tasks import StreamedTask
from llave_hf.training.batches import EpochDataLoader, GivenPairs

WORLD_SIZES = (1, 2, 4)


def _task(
    name: str, queries: Sequence[int], documents: Sequence[int], *, weight: float = 1.0, shard: int = 25
) -> StreamedTask:
    def read(part: slice) -> Iterator[pa.Table]:
        yield pa.table(
            {"qry": [f"q{n}" for n in queries[part]], "pos_text": [f"d{n}" * (n + 1) for n in documents[part]]}
        )

    parts = [slice(start, min(start + shard, len(queries))) for start in range(0, len(queries), shard)]
    shards = tuple(Shard(name, part.stop - part.start, partial(read, part)) for part in parts)
    spec = SourceSpec(name, weight=weight)
    return StreamedTask(name, StreamedSubset(name, ((name, len(queries)),), spec, shards))


def _batches(
    pairs: StreamedPairs, size: int, world_size: int, epoch: int = 0, **kwargs: Any
) -> list[list[list[Pair]]]:
    """Of each global batch, the rows of each rank."""
    return batches_of_ranks(partial(StreamedBatches, pairs, size // world_size, **kwargs), world_size, epoch)


def _global(pairs: StreamedPairs, size: int, world_size: int = 1, **kwargs: Any) -> list[list[Pair]]:
    return [joined(parts) for parts in _batches(pairs, size, world_size, **kwargs)]


def _repeats(batch: list[Pair]) -> bool:
    return len({pair.query.text for pair in batch}) < len(batch) or len({p.positive.text for p in batch}) < len(batch)


def _indexed_repeats(pairs: StreamedPairs, size: int, **kwargs: Any) -> int:
    """How many batches the sampler of indexed rows leaves with repeats."""
    rows = [pairs[i] for i in range(len(pairs))]
    queries, documents = ([getattr(row, side).text for row in rows] for side in ("query", "positive"))
    codes = [np.unique(texts, return_inverse=True)[1] for texts in (queries, documents)]
    sampler = TaskBatchSampler(pairs.sources, size, contents=(codes[0], codes[1]), **kwargs)
    return sum(_repeats([rows[i] for i in batch]) for batch in sampler)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    kinds=st.sampled_from([3, 20, 400]),
    size=st.sampled_from([4, 8]),
    buffer=st.sampled_from([8, 30, 1000]),
    seed=st.integers(0, 2**31),
)
def test_promises_of_a_stream(sizes: list[int], kinds: int, size: int, buffer: int, seed: int) -> None:
    """One task a step and no row twice, the same over 1, 2 and 4 ranks; no more repeats than has to be."""
    sizes[0] += size
    rng = np.random.default_rng(seed)
    drawn = [(rng.permutation(n).tolist(), rng.integers(0, kinds, n).tolist()) for n in map(int, sizes) if n]
    pairs = StreamedPairs([_task(f"task{i}", *rows) for i, rows in enumerate(drawn)])
    plans = [_global(pairs, size, w, epoch=1, buffer_size=buffer, seed=seed) for w in WORLD_SIZES]
    assert plans[0] == plans[1] == plans[2]
    mixed = sum(len({pair.source for pair in batch}) > 1 for batch in plans[0])
    assert mixed == 0
    used = Counter((pair.source, pair.row) for batch in plans[0] for pair in batch)
    assert set(used.values()) <= {1}
    assert Counter(batch[0].source for batch in plans[0]) == {
        source.name: len(source) // size for source in pairs.sources if len(source) >= size
    }
    if buffer == 1000:
        assert sum(map(_repeats, plans[0])) <= _indexed_repeats(pairs, size, seed=seed)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("settings_of_batch", [{}, {"batch_tasks": "mixed"}, {"batch_mix": {"a": 0.75, "b": 0.25}}])
def test_where_the_buffer_allows_it_no_step_repeats_anything(world_size: int, settings_of_batch: dict) -> None:
    """Each document has four rows, within a task and over both, and the buffer is a tenth of the rows."""
    if "batch_mix" in settings_of_batch:
        settings_of_batch = {**settings_of_batch, "batch_tasks": "mixed"}
    rng = np.random.default_rng(0)
    a, b = (rng.permutation(np.arange(400) // 2).tolist() for _ in range(2))
    pairs = StreamedPairs([_task("a", range(400), a, shard=40), _task("b", range(200, 600), b, shard=40)])
    batches = _global(pairs, 8, world_size, buffer_size=80, **settings_of_batch)
    assert sum(map(_repeats, batches)) == 0
    shares = [Counter(pair.source for pair in batch) for batch in batches]
    if "batch_mix" in settings_of_batch:
        assert len(batches) == 400 // 6
        assert all(share == {"a": 6, "b": 2} for share in shares)
    else:
        assert len(batches) == 100
        assert sum(len(share) == 2 for share in shares) == 0 if not settings_of_batch else 90
    assert any(map(_repeats, _global(pairs, 8, buffer_size=80, avoid_repeats=False, **settings_of_batch)))


def test_what_has_to_repeat_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pairs = StreamedPairs([_task("labels", range(43), [n % 2 for n in range(43)])])
    with caplog.at_level(logging.INFO, "llave_hf.data"):
        _global(pairs, 4, 2)  # only rank 0 speaks
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "3 rows are left out of each epoch",
        "10 of 10 batches of epoch 0 repeat a query or document",
    ]


def test_tokens_are_balanced_over_ranks() -> None:
    rng = np.random.default_rng(0)
    pairs = StreamedPairs([_task("a", range(200), rng.integers(0, 400, 200).tolist())])
    plain, dealt = (_batches(pairs, 16, 4, balance_tokens=balance, avoid_repeats=False) for balance in (False, True))

    def spread(batches: list[list[list[Pair]]]) -> float:
        loads = np.array([[sum(len(p.positive.text) for p in part) for part in parts] for parts in batches])
        return float((loads.max(1) / loads.mean(1)).mean())

    assert [sorted(p.row for p in joined(parts)) for parts in dealt] == [
        sorted(p.row for p in joined(parts)) for parts in plain
    ]
    assert spread(dealt) < 1.1 < 1.25 < spread(plain)


def test_weights_and_temperature_are_those_of_indexed_rows() -> None:
    pairs = StreamedPairs(
        [_task("a", *[range(200)] * 2), _task("b", *[range(100)] * 2, weight=0.5), _task("c", *[range(48)] * 2)]
    )
    for temperature in (1.0, 2.0):
        expected = TaskBatchSampler(pairs.sources, 4, sampling_temperature=temperature)
        epochs = [
            _global(pairs, 4, epoch=epoch, sampling_temperature=temperature, buffer_size=64) for epoch in range(2)
        ]
        used = np.array(joined(list(expected)))
        counts = {one.name: int(((used >= one.start) & (used < one.stop)).sum()) for one in pairs.sources}
        assert [Counter(pair.source for batch in batches for pair in batch) for batches in epochs] == [counts] * 2
        halves = [{pair.row for batch in batches for pair in batch if pair.source == "b"} for batches in epochs]
        assert len(halves[0] & halves[1]) < len(halves[0])  # others in each epoch
        assert 30 < np.mean(sorted(halves[0])) < 70  # from all shards
        assert max(row % 25 for row in halves[0]) > 20  # and from all places in them
    names = [batch[0].source for batch in epochs[0]]
    assert {"a", "b", "c"} == set(names[: len(names) // 3])  # tasks are drawn, not worked off


def test_order_follows_seed_and_epoch() -> None:
    pairs = StreamedPairs([_task(name, *[range(150)] * 2, shard=10) for name in "ab"])
    for settings_of_batch in ({}, {"batch_tasks": "mixed"}):
        first = _global(pairs, 4, buffer_size=40, **settings_of_batch)
        assert first == _global(pairs, 4, buffer_size=40, **settings_of_batch)
        assert first != _global(pairs, 4, epoch=1, buffer_size=40, **settings_of_batch)
        assert first != _global(pairs, 4, seed=1, buffer_size=40, **settings_of_batch)
        rows = np.array([pair.row for batch in first for pair in batch if pair.source == "a"])
        assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.6  # shards are shuffled, not only the buffer


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("epoch", "done"), [(0, 1), (0, 9), (2, 5)])
def test_resume_goes_on_in_the_identical_order_and_collates_nothing_before_it(
    epoch: int, done: int, workers: int
) -> None:
    """As Trainer does in mid-epoch: a fresh loader, skip_first_batches, set_epoch on the sampler that this wraps."""
    pairs = StreamedPairs([_task("a", range(60), [n % 30 for n in range(60)]), _task("b", *[range(50)] * 2)])
    collated: list[int] = []

    def collate(batch: list[Pair]) -> list[Pair]:
        collated.append(len(batch))
        return batch

    for rank in range(2):
        sampler = StreamedBatches(pairs, 4, rank=rank, world_size=2, buffer_size=16)
        sampler.set_epoch(epoch)
        unbroken = list(sampler)
        fresh = StreamedBatches(pairs, 4, rank=rank, world_size=2, buffer_size=16)
        loader = EpochDataLoader(
            GivenPairs(len(pairs)),
            batch_sampler=fresh,
            collate_fn=collate,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        loader = skip_first_batches(loader, done)
        loader.batch_sampler.batch_sampler.set_epoch(epoch)
        collated.clear()
        assert list(loader) == unbroken[done:] != []
        assert len(collated) == (0 if workers else len(unbroken) - done)


def test_no_more_than_the_buffer_and_a_chunk_is_held() -> None:
    """Rows read from the shards less rows given out in batches, at every moment."""
    read = [0]

    def table(start: int) -> Iterator[pa.Table]:
        read[0] += 50
        yield pa.table({"qry": [f"q{n}" for n in range(start, start + 50)], "pos_text": ["d"] * 50})

    shards = tuple(Shard("big", 50, partial(table, start)) for start in range(0, 5000, 50))
    task = StreamedTask("big", StreamedSubset("big", (("big", 5000),), SourceSpec("big"), shards))
    held = [
        read[0] - 8 * number for number, _ in enumerate(StreamedBatches(StreamedPairs([task]), 8, buffer_size=100))
    ]
    assert len(held) == 625
    assert 100 <= max(held) <= 100 + 50


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.data.streaming.shards.SHARD_ROWS", 100)
    file = tmp_path / "big.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(2000):
            row = {"qry": f"question {number} " + "q" * 3000, "pos_text": f"answer {number} " + "a" * 3000}
            lines.write(json.dumps(row) + "\n")
    assert file.stat().st_size > 12e6
    before = pa.total_allocated_bytes()
    arrow = 0
    tracemalloc.start()
    try:
        seen = 0
        for batch in StreamedBatches(stream_pairs(str(file)), 16, buffer_size=200):
            seen += len(batch)
            arrow = max(arrow, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 2000
    assert peak + arrow < 5e6  # 200 rows are 1.2 MB


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 1}, "rank is 1 of 1"),
        ({"buffer_size": 3}, "stream_buffer_size is 3; it must hold a global batch of 4 rows"),
        ({"batch_size": 40}, r"no task fills a global batch of 40 rows \(a: 9 rows an epoch\)"),
        ({"batch_mix": {"a": 1.0}}, "batch_mix needs batch_tasks='mixed'"),
    ],
)
def test_refuses_what_cannot_work(kwargs: dict, message: str) -> None:
    pairs = StreamedPairs([_task("a", range(9), range(9))])
    with pytest.raises(ValueError, match=message):
        StreamedBatches(**{"pairs": pairs, "batch_size": 4, **kwargs})
