"""Batches of whole groups from streams: no group is cut, whatever the shards and the buffer."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate import skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_together import batches_of_ranks, joined

from llave_hf.data import Pair, StreamedBatches, load_pairs, stream_pairs
from llave_hf.data.streaming import shards
from llave_hf.training.batches import EpochDataLoader, GivenPairs

WORLD_SIZES = (1, 2, 4)


def rows(count: int, size: int, name: str, left: int = 3, documents: int = 10**6) -> list[dict[str, Any]]:
    """Groups of `size`, and behind them rows in none."""
    rng = np.random.default_rng(count)
    numbers = [*np.repeat(np.arange(count), size).tolist(), *[None] * left]
    return [
        {"qry": f"{name} q{row}", "pos_text": f"d{rng.integers(documents)}", "batch_group": number}
        for row, number in enumerate(numbers)
    ]


def written(folder: Path, kind: str, tables: dict[str, list[dict[str, Any]]], row_group: int = 7) -> Path:
    for name, table in tables.items():
        (folder / name).mkdir(parents=True)
        if kind == "jsonl":
            (folder / name / "original.jsonl").write_text("\n".join(map(json.dumps, table)))
        else:
            pq.write_table(pa.Table.from_pylist(table), folder / name / "original.parquet", row_group_size=row_group)
    return folder


def batches(folder: Path, size: int, world_size: int = 1, **more: Any) -> list[list[list[Pair]]]:
    opening = {key: more.pop(key) for key in ("max_samples_per_source",) if key in more}
    epoch = more.pop("epoch", 0)
    pairs = stream_pairs(str(folder), whole_groups=True, **opening)
    return batches_of_ranks(
        partial(StreamedBatches, pairs, size // world_size, batch_groups=True, **more), world_size, epoch
    )


def group_of(pair: Pair, size: int) -> tuple[str, int]:
    return pair.source, pair.row // size


@pytest.fixture(params=["jsonl", "parquet"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of seven rows cut groups of four."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 7)
    return written(tmp_path / "data", request.param, {"a": rows(30, 4, "a"), "b": rows(17, 4, "b", left=0)})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"batch_tasks": "mixed"},
        {"batch_tasks": "mixed", "batch_mix": {"a": 0.75, "b": 0.25}},
        {"max_samples_per_source": 41},
        {"sampling_temperature": 2.0},
        {"split_groups": False, "balance_tokens": True},
    ],
    ids=str,
)
def test_promises_of_groups(folder: Path, more: dict[str, Any]) -> None:
    size = 16
    plans = [batches(folder, size, world_size, epoch=1, buffer_size=24, seed=3, **more) for world_size in WORLD_SIZES]
    plan = [joined(parts) for parts in plans[0]]
    for other in plans[1:]:
        assert [{group_of(pair, 4) for pair in joined(parts)} for parts in other] == [
            {group_of(pair, 4) for pair in batch} for batch in plan
        ]
    used = Counter((pair.source, pair.row) for batch in plan for pair in batch)
    assert set(used.values()) == {1}
    for parts in [*plans[0], *plans[2]]:
        for whole in parts if "split_groups" in more else [joined(parts)]:
            assert set(Counter(group_of(pair, 4) for pair in whole).values()) == {4}
    drawn = Counter(batch[0].source for batch in plan)
    if more.get("batch_tasks") != "mixed":
        assert all(len({pair.source for pair in batch}) == 1 for batch in plan)
    if not more:
        assert drawn == {"a": 7, "b": 4}
    if "max_samples_per_source" in more:
        assert drawn == {"a": 2, "b": 2}  # ten groups of each are kept
    if "batch_mix" in more:
        assert all(Counter(pair.source for pair in batch) == {"a": 12, "b": 4} for batch in plan)
    again = [joined(parts) for parts in batches(folder, size, epoch=2, buffer_size=24, seed=3, **more)]
    assert {frozenset(p.query.text for p in batch) for batch in plan} != {
        frozenset(p.query.text for p in batch) for batch in again
    }


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shard=st.integers(1, 30), buffer=st.sampled_from([8, 20, 1000]))
def test_any_shards_and_buffers_leave_groups_whole(
    seed: int, shard: int, buffer: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = written(tmp_path_factory.mktemp("data"), "parquet", {"a": rows(25, 4, "a")}, row_group=shard)
    before = shards.SHARD_ROWS
    shards.SHARD_ROWS = shard
    try:
        plan = [joined(parts) for parts in batches(folder, 8, buffer_size=buffer, seed=seed)]
    finally:
        shards.SHARD_ROWS = before
    assert len(plan) == 12
    assert all(set(Counter(group_of(pair, 4) for pair in batch).values()) == {4} for batch in plan)
    assert len({pair.row for batch in plan for pair in batch}) == 96


def test_groups_that_share_a_document_are_kept_apart(tmp_path: Path) -> None:
    table = rows(40, 4, "a", left=0)
    for row in range(0, 160, 4):  # each of ten documents stands in four groups
        table[row]["pos_text"] = f"shared {row // 4 % 10}"
    folder = written(tmp_path, "jsonl", {"a": table})

    def repeating(avoid_repeats: bool) -> int:
        found = batches(folder, 16, buffer_size=160, avoid_repeats=avoid_repeats)
        return sum(len({pair.positive.text for pair in joined(parts)}) < 16 for parts in found)

    assert repeating(True) == 0 < repeating(False)


@pytest.mark.parametrize("done", [1, 4])
def test_resume_goes_on_with_the_identical_batches(folder: Path, done: int) -> None:
    unbroken = batches(folder, 16, 2, epoch=1, buffer_size=24)
    pairs = stream_pairs(str(folder), whole_groups=True)
    for rank in range(2):
        sampler = StreamedBatches(pairs, 8, rank=rank, world_size=2, buffer_size=24, batch_groups=True)
        loader = EpochDataLoader(GivenPairs(len(pairs)), batch_sampler=sampler, collate_fn=list)
        loader.set_epoch(1)
        assert list(skip_first_batches(loader, done)) == [parts[rank] for parts in unbroken][done:] != []


@pytest.mark.parametrize("opened", [load_pairs, stream_pairs])
def test_faults_of_the_column_are_named(opened: Any, tmp_path: Path) -> None:
    plain = [{"qry": "a", "pos_text": "b"}]
    folder = written(tmp_path / "plain", "jsonl", {"a": plain})
    with pytest.raises(
        ValueError, match=r"a.*original.jsonl.* has no column 'batch_group', which batch_groups needs"
    ) as told:
        opened(str(folder), whole_groups=True)
    assert f"llave mine {folder} MODEL --output mined --group_size 8" in str(told.value)
    uneven = written(tmp_path / "uneven", "jsonl", {"a": rows(3, 2, "a")[:-4]})
    with pytest.raises(ValueError, match="'batch_group' 2 has 1 rows where others have 2"):
        opened(str(uneven), whole_groups=True)
    words = written(tmp_path / "words", "jsonl", {"a": [{**plain[0], "batch_group": "one"}]})
    with pytest.raises(ValueError, match=r"'batch_group' holds .*string; it must hold whole numbers"):
        opened(str(words), whole_groups=True)
    below = written(tmp_path / "below", "jsonl", {"a": [{**plain[0], "batch_group": -2}]})
    with pytest.raises(ValueError, match=r"row 0 of 'a'.*'batch_group' is -2; give a number from 0"):
        opened(str(below), whole_groups=True)


def test_a_stream_needs_the_rows_of_a_group_together(tmp_path: Path) -> None:
    folder = written(tmp_path, "jsonl", {"a": rows(3, 4, "a", left=0)[::2] + rows(3, 4, "a", left=0)[1::2]})
    assert [len(groups) for groups in load_pairs(str(folder), whole_groups=True).groups()] == [3]
    with pytest.raises(
        ValueError, match="the rows of 'batch_group' 0 stand apart; a stream reads a group in one piece"
    ):
        stream_pairs(str(folder), whole_groups=True)


def test_a_cap_keeps_whole_groups_and_the_same_in_a_stream(folder: Path) -> None:
    options: dict[str, Any] = {"max_samples_per_source": 30, "whole_groups": True}
    indexed, streamed = load_pairs(str(folder), **options), stream_pairs(str(folder), **options)
    assert [len(source) for source in indexed.sources] == [28, 28]
    kept = [{(pair.source, pair.row) for pair in (found[row] for row in range(56))} for found in (indexed, streamed)]
    assert kept[0] == kept[1]
    assert set(Counter(source_row[1] // 4 for source_row in kept[0] if source_row[0] == "a").values()) == {4}
