"""Batches of whole groups: the promises of the sampler, of groups in place of rows."""

from __future__ import annotations

import doctest
import hashlib
import json
import logging
from collections import Counter
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
from accelerate import skip_first_batches
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from ranks_together import batches_of_ranks, joined, task_slices
from torch.utils.data import DataLoader

from llave_hf.data import SourceSlice, TaskBatchSampler
from llave_hf.data.batches import groups as grouping
from llave_hf.data.batches.repeats import repeating_batches

WORLD_SIZES = (1, 2, 4)
Groups = list[np.ndarray]


def grouped(sources: list[SourceSlice], sizes: list[int], seed: int = 0) -> Groups:
    """Groups of rows in any order; what fills none is left out."""
    rng = np.random.default_rng(seed)
    found = []
    for source, size in zip(sources, sizes, strict=True):
        count = len(source) // size
        found.append(source.start + rng.permutation(len(source))[: count * size].reshape(count, size))
    return found


def plan(
    sources: list[SourceSlice], batch_size: int, world_size: int, epoch: int = 0, **more: Any
) -> list[list[list[int]]]:
    """Batches of all ranks, each as the rows of each rank."""
    return batches_of_ranks(partial(TaskBatchSampler, sources, batch_size // world_size, **more), world_size, epoch)


def test_docstring_examples() -> None:
    outcome = doctest.testmod(grouping)
    assert outcome.failed == 0 < outcome.attempted


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    mode = draw(st.sampled_from(["one", "mixed", "shares"]))
    sizes = [*draw(st.lists(st.integers(0, 90), min_size=1, max_size=3)), 80]
    one = draw(st.sampled_from([2, 4, 8]))
    own = [one if mode != "one" else draw(st.sampled_from([1, 2, 4, 8])) for _ in sizes]
    weights = (
        None
        if mode == "shares"
        else draw(st.lists(st.sampled_from([1.0, 0.5]), min_size=len(sizes), max_size=len(sizes)))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kinds = [max(1, int(sum(sizes) * draw(st.sampled_from([0.05, 0.5, 20])))) for _ in range(2)]
    made: dict[str, Any] = {
        "sources": task_slices(sizes, weights),
        "contents": tuple(rng.integers(0, kind, sum(sizes)) for kind in kinds) if draw(st.booleans()) else None,
        "tokens": rng.integers(20, 6000, sum(sizes)) if draw(st.booleans()) else None,
        "split_groups": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
        "batch_tasks": "one" if mode == "one" else "mixed",
    }
    if mode == "shares":
        made["batch_mix"] = {source.name: 1.0 for source in made["sources"]}
    return made | {"groups": grouped(made["sources"], own), "size": 32, "epoch": draw(st.integers(0, 3))}


@settings(max_examples=150, deadline=None)
@given(run=runs())
def test_promises_of_groups(run: dict[str, Any]) -> None:
    """Whole groups, no row twice, one task where it is asked for, the same over 1, 2 and 4 ranks."""
    sources, size, epoch = (run.pop(name) for name in ("sources", "size", "epoch"))
    try:
        plans = [plan(sources, size, world_size, epoch, **run) for world_size in WORLD_SIZES]
    except ValueError as error:
        assert "global batch" in str(error)
        reject()
    batches = [joined(parts) for parts in plans[0]]
    for other in plans[1:]:
        assert [sorted(joined(parts)) for parts in other] == [sorted(batch) for batch in batches]
    assert set(Counter(joined(batches)).values()) == {1}
    group_of = {
        row: (task, number)
        for task, rows in enumerate(run["groups"])
        for number, own in enumerate(rows)
        for row in own.tolist()
    }
    for parts in chain.from_iterable(plans):
        wholes = [joined(parts)] if run["split_groups"] else parts
        for whole in wholes:
            held = Counter(group_of[row] for row in whole)
            assert all(count == run["groups"][task].shape[1] for (task, _), count in held.items())
    drawn = Counter(group_of[row][0] for row in joined(batches))
    if run["batch_tasks"] == "one":
        assert all(len({group_of[row][0] for row in batch}) == 1 for batch in batches)
    if "batch_mix" in run:
        shares = {tuple(sorted(Counter(group_of[row][0] for row in batch).items())) for batch in batches}
        assert len(shares) == 1
    elif run["batch_tasks"] == "one":
        rates = np.array(
            [source.weight if len(rows) else 0 for source, rows in zip(sources, run["groups"], strict=True)]
        )
        for task, rows in enumerate(run["groups"]):
            use = int(rows.size * rates[task] / rates.max()) // rows.shape[1] * rows.shape[1]
            assert drawn[task] == use // size * size


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), mode=st.sampled_from(["one", "mixed"]), kinds=st.sampled_from([20, 400]))
def test_groups_of_one_row_are_todays_plan_to_the_bit(seed: int, mode: str, kinds: int) -> None:
    sources = task_slices([70, 55])
    contents = tuple(np.random.default_rng(seed).integers(0, kinds, 125) for _ in range(2))
    settings_of_run = {"contents": contents, "seed": seed, "batch_tasks": mode}
    single = [np.arange(source.start, source.stop)[:, None] for source in sources]
    assert plan(sources, 8, 2, 1, groups=single, **settings_of_run) == plan(sources, 8, 2, 1, **settings_of_run)


@pytest.mark.parametrize(
    ("more", "digest"),
    [
        ({}, "865e81c9f2934259"),
        ({"batch_tasks": "mixed"}, "f7974b5790ef3cd3"),
        ({"batch_tasks": "mixed", "batch_mix": {"a": 0.5, "b": 0.5}}, "1b59893094eed423"),
    ],
)
def test_without_groups_the_plan_is_that_of_before_there_were_any(more: dict[str, Any], digest: str) -> None:
    """Digests of plans that the sampler made when it knew no groups."""
    sources = [SourceSlice("a", 0, 70, 1.0), SourceSlice("b", 70, 125, 1.0 if "batch_mix" in more else 0.5)]
    rng = np.random.default_rng(0)
    settings_of_run: dict[str, Any] = {"contents": (rng.integers(0, 60, 125), rng.integers(0, 40, 125)), "seed": 5}
    plans = []
    for rank in range(2):
        tokens = rng.integers(20, 6000, 125)
        sampler = TaskBatchSampler(sources, 4, rank=rank, world_size=2, tokens=tokens, **settings_of_run, **more)
        sampler.set_epoch(2)
        plans.append(list(sampler))
    assert hashlib.sha256(json.dumps(plans).encode()).hexdigest()[:16] == digest


def test_a_group_as_large_as_the_batch_is_the_batch() -> None:
    sources = task_slices([64, 32])
    found = grouped(sources, [16, 16])
    batches = {frozenset(joined(parts)) for parts in plan(sources, 16, 2, groups=found)}
    assert batches == {frozenset(rows.tolist()) for rows in np.concatenate(found)}


@pytest.mark.parametrize("batch_tasks", ["one", "mixed"])
def test_groups_meet_others_each_epoch(batch_tasks: str) -> None:
    sources = task_slices([160, 160])
    found = grouped(sources, [8, 8])
    epochs = [
        {frozenset(joined(parts)) for parts in plan(sources, 32, 1, epoch, groups=found, batch_tasks=batch_tasks)}
        for epoch in (0, 1)
    ]
    assert epochs[0].isdisjoint(epochs[1])


def repeating(batches: list[list[int]], contents: tuple[np.ndarray, np.ndarray]) -> int:
    return int(repeating_batches(np.array(batches), *contents).sum())


@pytest.mark.parametrize("mode", ["one", "mixed", "shares"])
@pytest.mark.parametrize("seed", range(3))
def test_what_can_be_kept_apart_is(mode: str, seed: int) -> None:
    """Each document stands in two or three groups, of both tasks; 20 batches of four groups have room for that."""
    sources = task_slices([320, 320])
    found = grouped(sources, [8, 8], seed)
    documents = np.arange(640)
    rng = np.random.default_rng(seed)
    for own in range(60):  # of three groups, one row each
        chosen = rng.choice(80, 3, replace=False)
        documents[np.concatenate(found)[chosen, rng.integers(0, 8, 3)]] = 1000 + own
    contents = np.arange(640), documents
    more: dict[str, Any] = {"batch_tasks": "one" if mode == "one" else "mixed", "seed": seed}
    if mode == "shares":
        more["batch_mix"] = {"task0": 0.5, "task1": 0.5}
    loose = [joined(parts) for parts in plan(sources, 32, 1, groups=found, **more)]
    apart = [joined(parts) for parts in plan(sources, 32, 1, groups=found, contents=contents, **more)]
    inside = repeating(np.concatenate(found).tolist(), contents)
    assert repeating(apart, contents) <= inside < repeating(loose, contents)  # what one group holds twice stays


def test_what_has_to_repeat_is_told_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    sources = task_slices([64])
    contents = np.arange(64), np.arange(64) % 4
    with caplog.at_level(logging.WARNING, "llave_hf.data.batches.sampler"):
        batches = plan(sources, 16, 2, groups=grouped(sources, [8]), contents=contents)
    assert sorted(joined([joined(parts) for parts in batches])) == list(range(64))
    assert [record.getMessage() for record in caplog.records] == [
        "4 of 4 batches of epoch 0 repeat a query or document of task0: some stand in one group, or find no batch "
        "without them. The loss masks them; smaller batches repeat less."
    ]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("batch_tasks", ["one", "mixed"])
def test_resume_goes_on_in_the_identical_order(world_size: int, batch_tasks: str) -> None:
    sources = task_slices([160, 96])
    more: dict[str, Any] = {"groups": grouped(sources, [8, 8]), "batch_tasks": batch_tasks, "seed": 3}
    unbroken = plan(sources, 16, world_size, 2, **more)
    for rank in range(world_size):
        sampler = TaskBatchSampler(sources, 16 // world_size, rank=rank, world_size=world_size, **more)
        loader = skip_first_batches(DataLoader(range(256), batch_sampler=sampler, collate_fn=list), 5)
        loader.batch_sampler.batch_sampler.set_epoch(2)
        assert list(loader) == [parts[rank] for parts in unbroken][5:] != []


def test_tokens_are_balanced_by_whole_groups_where_ranks_do_not_gather() -> None:
    sources = task_slices([512])
    found = grouped(sources, [4])
    tokens = np.random.default_rng(0).integers(20, 6000, 512)
    loads = {}
    for balanced in (False, True):
        batches = plan(sources, 64, 4, groups=found, tokens=tokens if balanced else None, split_groups=False)
        loads[balanced] = np.array([[tokens[rows].sum() for rows in parts] for parts in batches])
    spread = {key: (value.max(1) - value.min(1)).mean() for key, value in loads.items()}
    assert spread[True] < spread[False] / 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"batch_size": 12},
            "a global batch has 12 rows, which is no union of task0's groups of 8; use a multiple of 8",
        ),
        (
            {"batch_size": 4, "world_size": 4, "split_groups": False},
            r"a rank \(it sees no other rank's documents\) has 4",
        ),
        (
            {"batch_tasks": "mixed", "sizes": [8, 4]},
            "groups of one size, and these have rows a group: task0: 8, task1: 4",
        ),
        ({"batch_size": 48}, "no task fills a global batch of 48 rows.*Rows in no group do not count"),
        ({"batch_tasks": "mixed", "batch_mix": {"task0": 9, "task1": 1}}, "less than one of 2 groups of 8 rows"),
    ],
)
def test_refuses_what_cannot_work(more: dict[str, Any], message: str) -> None:
    sources = task_slices([42, 42])
    found = grouped(sources, more.pop("sizes", [8, 8]))
    with pytest.raises(ValueError, match=message):
        TaskBatchSampler(sources, more.pop("batch_size", 16), groups=found, **more)
