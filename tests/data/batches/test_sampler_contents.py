"""Batches without repeats, with set shares, and balanced over ranks."""

from __future__ import annotations

import doctest
import logging
from collections import Counter
from types import ModuleType

import numpy as np
import pytest
from accelerate import skip_first_batches
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from ranks_together import joined, task_slices
from torch.utils.data import DataLoader

from llave_hf.data import SourceSlice, TaskBatchSampler
from llave_hf.data.batches import mix, ranks, repeats

WORLD_SIZES = (1, 2, 4)


@pytest.mark.parametrize("module", [mix, ranks, repeats])
def test_docstring_examples(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert outcome.failed == 0 < outcome.attempted


def _has_repeats(batch: list[int], contents: tuple[np.ndarray, np.ndarray]) -> bool:
    return any(len(set(codes[batch].tolist())) < len(batch) for codes in contents)


def _global_batches(
    sources: list[SourceSlice], batch_size: int, world_size: int, epoch: int, **kwargs: object
) -> list:
    """Batches of all ranks, each as (rows of rank 0, rows of rank 1, ...)."""
    samplers = [
        TaskBatchSampler(sources, batch_size, rank=rank, world_size=world_size, **kwargs)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in samplers]
    assert {len(of_rank) for of_rank in batches} == {len(samplers[0])}
    assert all(len(batch) == batch_size for of_rank in batches for batch in of_rank)
    return list(zip(*batches, strict=True))


@st.composite
def runs(draw: st.DrawFn) -> dict:
    """Tasks with repeats of all kinds, from none to two labels."""
    sizes = [*draw(st.lists(st.integers(0, 80), min_size=1, max_size=4)), 40]
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    contents = tuple(
        np.concatenate([rng.integers(0, max(1, int(n * draw(st.sampled_from([0.05, 0.3, 1, 20])))), n) for n in sizes])
        for _ in ("query", "document")
    )
    if draw(st.booleans()):
        contents = np.arange(sum(sizes)), contents[1]
    return {
        "sources": task_slices(
            sizes, draw(st.lists(st.sampled_from([1.0, 2.0]), min_size=len(sizes), max_size=len(sizes)))
        ),
        "contents": contents,
        "tokens": rng.integers(20, 6000, sum(sizes)) if draw(st.booleans()) else None,
        "size": 4 * draw(st.integers(1, 4)),
        "epoch": draw(st.integers(0, 3)),
        "seed": draw(st.integers(0, 2**31)),
        "batch_tasks": draw(st.sampled_from(["one", "mixed"])),
        "sampling_temperature": draw(st.sampled_from([1.0, 2.0])),
    }


def _owner(sources: list[SourceSlice], row: int) -> int:
    return next(i for i, source in enumerate(sources) if source.start <= row < source.stop)


@settings(max_examples=150, deadline=None)
@given(run=runs())
def test_promises_with_contents(run: dict) -> None:
    """0 mixed steps, 0 steps with repeats that need not be, no row twice, the same batches for 1, 2 and 4 ranks."""
    sources, contents, size, epoch = (run.pop(name) for name in ("sources", "contents", "size", "epoch"))
    try:
        plain = TaskBatchSampler(sources, size, **run)
    except ValueError:
        reject()
    plans = [
        _global_batches(sources, size // world_size, world_size, epoch, contents=contents, **run)
        for world_size in WORLD_SIZES
    ]
    batches, *others = [[joined(parts) for parts in plan] for plan in plans]
    for other in others:
        assert [sorted(batch) for batch in other] == [sorted(batch) for batch in batches]
    assert set(Counter(joined(batches)).values()) == {1}
    assert len(batches) == len(plain)  # no row is dropped for a repeat

    pools: dict[int, list[list[int]]] = {}
    for batch in batches:
        owners = {_owner(sources, row) for row in batch}
        assert len(owners) == 1 or run["batch_tasks"] == "mixed"
        pools.setdefault(min(owners) if run["batch_tasks"] == "one" else -1, []).append(batch)
    if len({source.weight for source in sources}) > 1 or run["sampling_temperature"] != 1:
        return  # which rows were drawn does not show
    for task, own in pools.items():
        pool = slice(None) if task < 0 else slice(sources[task].start, sources[task].stop)
        _check_repeats(own, contents, (contents[0][pool], contents[1][pool]))


def _check_repeats(batches: list[list[int]], contents: tuple[np.ndarray, np.ndarray], pool: tuple) -> None:
    """Few batches repeat: none where nothing has more rows than there are batches."""
    repeating = sum(_has_repeats(batch, contents) for batch in batches)
    counts = [np.unique(codes, return_counts=True)[1] for codes in pool]
    if max(map(max, counts)) <= len(batches):
        assert repeating == 0
    # Of k batches without repeats, each query and document can bring k rows.
    most = max(
        k for k in range(len(batches) + 1) if all(np.minimum(of, k).sum() >= k * len(batches[0]) for of in counts)
    )
    assert repeating >= len(batches) - most
    if 1 in map(max, counts):
        assert repeating == len(batches) - most


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_nothing_repeats_where_it_need_not(data: st.DataObject) -> None:
    """König: where nothing has more rows than there are batches, no batch repeats anything, however dense the rows."""
    count, size, kinds = (data.draw(st.integers(1, most)) for most in (8, 8, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    rows: list[tuple[int, int]] = []
    degrees: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for query, document in rng.integers(0, kinds, (400, 2)).tolist():
        if degrees[0][query] < count and degrees[1][document] < count and len(rows) < count * size + size // 2:
            rows.append((query, document))
            degrees[0][query] += 1
            degrees[1][document] += 1
    if len(rows) < count * size:
        rows += [(1000 + i, 1000 + i) for i in range(count * size - len(rows))]
    queries, documents = np.array(rows).T
    batches = repeats.plan_batches(queries, documents, size, count)
    assert batches.shape == (count, size)
    assert len(np.unique(batches)) == count * size
    assert not any(_has_repeats(batch, (queries, documents)) for batch in batches.tolist())
    assert not repeats.repeating_batches(batches, queries, documents).any()


def test_a_complete_graph_is_taken_apart() -> None:
    """Each of 12 queries with each of 12 documents: 12 batches of 12, each holding all of both."""
    order = np.random.default_rng(0).permutation(144)
    queries, documents = order // 12, order % 12
    batches = repeats.plan_batches(queries, documents, 12, 12)
    assert (np.sort(queries[batches]) == np.arange(12)).all()
    assert (np.sort(documents[batches]) == np.arange(12)).all()


def test_what_has_to_repeat_does_so_in_few_batches_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """30 of 80 rows share a document; of 10 batches of 8, 7 can do without a repeat: 7 + 50 rows fill 7 of them."""
    documents = np.where(np.arange(80) < 30, 1000, np.arange(80))
    contents = (np.arange(80), documents)
    sampler = TaskBatchSampler(task_slices([80]), 8, contents=contents)
    with caplog.at_level(logging.WARNING, "llave_hf.data.batches.sampler"):
        batches = list(sampler)
    assert sorted(joined(batches)) == list(range(80))  # none is lost
    shared = sorted(sum(row < 30 for row in batch) for batch in batches)
    assert shared == [1, 1, 1, 1, 1, 1, 1, 7, 8, 8]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "3 of 10 batches of epoch 0 repeat a query or document of task0"
    ]
    caplog.clear()
    list(TaskBatchSampler(task_slices([80]), 8, contents=(np.arange(80), np.arange(80))))
    assert not caplog.records
    for sizes, offset in (([80, 80], 0), ([80, 80], 80)):
        both = np.arange(160)
        both[offset : offset + 30] = 1000
        list(TaskBatchSampler(task_slices(sizes), 8, contents=(np.arange(160), both)))
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        f"3 of 20 batches of epoch 0 repeat a query or document of {task}" for task in ("task0", "task1")
    ]


def test_batches_that_repeat_stand_anywhere_in_the_epoch() -> None:
    documents = np.where(np.arange(160) < 40, 1000, np.arange(160))
    contents = (np.arange(160), documents)
    mixes: list[dict] = [{"batch_tasks": "mixed", "batch_mix": {"task0": 1, "task1": 1}}, {"batch_tasks": "mixed"}, {}]
    for kwargs in mixes:
        sampler = TaskBatchSampler(task_slices([80, 80]), 8, contents=contents, **kwargs)
        where = np.flatnonzero(repeats.repeating_batches(sampler.global_batches(), *contents))
        assert 0 < len(where) < 20
        assert where[0] < 20 - len(where)  # not all at the end


def test_two_labels_are_spread_evenly() -> None:
    labels = np.arange(400) % 2
    batches = list(TaskBatchSampler(task_slices([400]), 40, contents=(np.arange(400), labels)))
    assert {labels[batch].sum() for batch in batches} == {20}


@pytest.mark.parametrize("numbers", [lambda c: c * 7919 + 5, lambda c: c.max() - c])
def test_plan_depends_on_what_is_equal_only(numbers) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    contents = rng.integers(0, 60, 200), rng.integers(0, 50, 200)
    plans = [
        TaskBatchSampler(task_slices([200]), 16, contents=given).global_batches().tolist()
        for given in (contents, tuple(map(numbers, contents)))
    ]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize(
    "kwargs", [{}, {"batch_tasks": "mixed"}, {"batch_tasks": "mixed", "batch_mix": {"task0": 1, "task1": 3}}]
)
def test_resume_goes_on_in_the_identical_order(world_size: int, kwargs: dict) -> None:
    rng = np.random.default_rng(0)
    kwargs = {**kwargs, "contents": tuple(rng.integers(0, 60, (2, 200))), "tokens": rng.integers(20, 6000, 200)}
    for rank in range(world_size):
        first, second = (
            TaskBatchSampler(task_slices([80, 120]), 4, rank=rank, world_size=world_size, seed=7, **kwargs)
            for _ in range(2)
        )
        first.set_epoch(2)
        loader = skip_first_batches(DataLoader(range(200), batch_sampler=second, collate_fn=list), 3)
        loader.batch_sampler.batch_sampler.set_epoch(2)
        assert list(loader) == list(first)[3:] != []


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_get_nearly_equal_tokens(world_size: int) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.choice([20, 40, 900, 3800], 4096) + rng.integers(0, 20, 4096)
    excess = []
    for given_tokens in (tokens, None):
        plan = _global_batches(task_slices([4096]), 256 // world_size, world_size, 0, tokens=given_tokens)
        loads = np.array([[tokens[rows].sum() for rows in parts] for parts in plan])
        excess.append((loads.max(axis=1) / loads.mean(axis=1) - 1).mean())
        if given_tokens is not None:
            # One row at most: what is left where the long rows are no multiple of the ranks.
            assert (loads.max(axis=1) - loads.min(axis=1)).max() <= tokens.max() - tokens.min()
    assert excess[0] < excess[1] / 3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), world_size=st.sampled_from(WORLD_SIZES), kinds=st.sampled_from([40, 200, 5000]))
def test_batch_mix_sets_the_rows_of_each_task(seed: int, world_size: int, kinds: int) -> None:
    sources = task_slices([50, 120, 200])
    rng = np.random.default_rng(seed)
    contents = rng.integers(0, 5000, 370), rng.integers(0, kinds, 370)
    shares = {"task2": 0.5, "task0": 0.125, "task1": 0.375}
    plan = _global_batches(
        sources, 16 // world_size, world_size, 1, batch_tasks="mixed", batch_mix=shares, contents=contents, seed=seed
    )
    batches = [joined(parts) for parts in plan]
    assert len(batches) == min(50 // 2, 120 // 6, 200 // 8)
    for batch in batches:
        assert Counter(_owner(sources, row) for row in batch) == {0: 2, 1: 6, 2: 8}
    assert set(Counter(joined(batches)).values()) == {1}
    if kinds > 40:  # 20 batches of 16 rows with 200 kinds: repeats can all be taken apart
        assert not any(_has_repeats(batch, contents) for batch in batches)


def test_a_swap_between_batches_moves_no_more_than_it_must() -> None:
    """Three batches of a row of each of two tasks, with equal documents: places of the first task change."""
    batches = np.array([[0, 3], [1, 4], [2, 5]])
    documents = np.array([5, 6, 7, 5, 6, 7])
    apart = mix.swap_repeats_apart(batches, [slice(0, 1), slice(1, 2)], np.arange(6), documents)
    assert apart[:, 1].tolist() == [3, 4, 5]
    assert sorted(apart[:, 0].tolist()) == [0, 1, 2]
    assert not repeats.repeating_batches(apart, documents).any()
    assert batches.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_sampling_temperature_draws_tasks_more_evenly_and_weights_multiply() -> None:
    def drawn(temperature: float, weights: list[float]) -> list[int]:
        sampler = TaskBatchSampler(task_slices([1600, 400, 100], weights), 1, sampling_temperature=temperature)
        return [sum(_owner(list(sampler.sources), row) == task for (row,) in sampler) for task in range(3)]

    assert drawn(1, [1, 1, 1]) == [1600, 400, 100]
    assert drawn(2, [1, 1, 1]) == [400, 200, 100]  # 40 : 20 : 10
    assert drawn(float("inf"), [1, 1, 1]) == [100, 100, 100]
    assert drawn(2, [2, 1, 0.5]) == [1600, 400, 100]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sampling_temperature": 0}, "sampling_temperature is 0; it must be above 0"),
        ({"batch_tasks": "one", "batch_mix": {"task0": 1, "task1": 1}}, "batch_mix needs batch_tasks='mixed'"),
        ({"batch_mix": {"task0": 1}}, "batch_mix has no share for the task 'task1'"),
        (
            {"batch_mix": {"task0": 1, "task1": 1, "x": 1}},
            "batch_mix has no task 'x' to take; the tasks are task0, task1",
        ),
        ({"batch_mix": {"task0": 1, "task1": 0}}, "batch_mix gives 'task1' 0; it must be above 0"),
        ({"batch_mix": {"task0": 1, "task1": 0.01}}, "batch_mix gives 'task1' less than one of 8 rows"),
        (
            {"batch_mix": {"task0": 7, "task1": 1}, "batch_size": 80},
            "a task is too small for its share of a global batch",
        ),
        (
            {"batch_mix": {"task0": 1, "task1": 1}, "sampling_temperature": 2},
            "leave out sampling_temperature and weights",
        ),
    ],
)
def test_refuses_what_cannot_work(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskBatchSampler(task_slices([40, 40]), **{"batch_tasks": "mixed", "batch_size": 8, **kwargs})
