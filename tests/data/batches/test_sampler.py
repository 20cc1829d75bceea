from __future__ import annotations

import doctest
import logging
from collections import Counter
from itertools import chain, pairwise

import pytest
from accelerate import skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_together import task_slices
from torch.utils.data import DataLoader

from llave_hf.data import SourceSlice, TaskBatchSampler
from llave_hf.data.batches import sampler

WORLD_SIZES = (1, 2, 4)


def _ranks(
    sources: list[SourceSlice], batch_size: int, world_size: int, epoch: int, **kwargs: object
) -> list[list[list[int]]]:
    """Batches of each rank."""
    batches = []
    for rank in range(world_size):
        sampler = TaskBatchSampler(sources, batch_size, rank=rank, world_size=world_size, **kwargs)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        batches.append(list(sampler))
        assert len(batches[-1]) == len(sampler)
    return batches


def _global(ranks: list[list[list[int]]]) -> list[list[int]]:
    return [list(chain(*parts)) for parts in zip(*ranks, strict=True)]


def test_docstring_example() -> None:
    assert doctest.testmod(sampler) == doctest.TestResults(failed=0, attempted=2)


plans = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(0, 60), min_size=1, max_size=5).map(lambda sizes: [*sizes, 40]),
        "batch_size": st.integers(1, 10),
        "world_size": st.sampled_from(WORLD_SIZES),
        "seed": st.integers(0, 2**31),
        "epoch": st.integers(0, 5),
        "batch_tasks": st.sampled_from(["one", "mixed"]),
    }
)


@settings(max_examples=150, deadline=None)
@given(plan=plans)
def test_promises_of_a_plan(plan: dict) -> None:
    sources = task_slices(plan.pop("sizes"))
    order = {key: plan[key] for key in ("seed", "batch_tasks")}
    ranks = _ranks(sources, plan["batch_size"], plan["world_size"], plan["epoch"], **order)
    size = plan["batch_size"] * plan["world_size"]
    owner = {row: source.name for source in sources for row in range(source.start, source.stop)}
    batches = _global(ranks)

    for rank in ranks:
        assert {len(batch) for batch in rank} == {plan["batch_size"]}
    used = Counter(row for batch in batches for row in batch)
    assert set(used) <= set(owner)
    assert set(used.values()) == {1}  # at most once an epoch; and so ranks are disjoint
    if plan["batch_tasks"] == "one":
        assert all(len({owner[row] for row in batch}) == 1 for batch in batches)
        drawn = Counter(owner[batch[0]] for batch in batches)
        assert all(drawn[source.name] == len(source) // size for source in sources)
    else:
        assert len(batches) == len(owner) // size
    # One rank with the whole global batch sees the same rows in the same order.
    assert batches == _global(_ranks(sources, size, 1, plan["epoch"], **order))
    assert ranks == _ranks(sources, plan["batch_size"], plan["world_size"], plan["epoch"], **order)


@pytest.mark.parametrize("batch_tasks", ["one", "mixed"])
def test_epoch_and_seed_change_the_rows_and_the_order_of_tasks(batch_tasks: str) -> None:
    sources = task_slices([50, 50, 50])
    plans = [
        _ranks(sources, 8, 1, epoch, seed=seed, batch_tasks=batch_tasks)[0] for epoch, seed in ((0, 0), (1, 0), (0, 1))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert {frozenset(batch) for batch in plans[one]}.isdisjoint(frozenset(batch) for batch in plans[other])
        assert [batch[0] // 50 for batch in plans[one]] != [batch[0] // 50 for batch in plans[other]]
    assert {row for plan in plans for batch in plan for row in batch} > {row for batch in plans[0] for row in batch}


def test_tasks_are_mixed_over_the_epoch() -> None:
    (batches,) = _ranks(task_slices([400, 400]), 4, 1, 0)
    tasks = [batch[0] // 400 for batch in batches]
    assert sum(a != b for a, b in pairwise(tasks)) > 60  # 99.5 are expected, 1 without a shuffle


def test_weights_set_how_often_a_row_is_drawn() -> None:
    sources = task_slices([80, 80, 80], [2.0, 1.0, 0.25])
    for batch_tasks in ("one", "mixed"):
        used = [Counter(), Counter()]
        for epoch in (0, 1):
            for batch in _global(_ranks(sources, 2, 1, epoch, batch_tasks=batch_tasks)):
                used[epoch].update(batch)
        per_task = [sum(row // 80 == task for row in used[0]) for task in range(3)]
        assert per_task == [80, 40, 10]
        assert max(used[0].values()) == 1
        assert {row for row in used[0] if row >= 160} != {row for row in used[1] if row >= 160}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("done", [1, 3])
def test_resume_goes_on_in_the_identical_order(world_size: int, epoch: int, done: int) -> None:
    """As Trainer does in mid-epoch: a fresh loader, skip_first_batches, set_epoch on the sampler that this wraps."""
    sources = task_slices([40, 40, 24])
    for rank, unbroken in enumerate(_ranks(sources, 4, world_size, epoch, seed=7)):
        sampler = TaskBatchSampler(sources, 4, rank=rank, world_size=world_size, seed=7)
        loader = skip_first_batches(DataLoader(range(104), batch_sampler=sampler, collate_fn=list), done)
        loader.batch_sampler.batch_sampler.set_epoch(epoch)
        assert list(loader) == unbroken[done:] != []


def test_a_task_that_fills_no_batch_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llave_hf.data"):
        TaskBatchSampler(task_slices([7, 21]), 4, world_size=2)
        TaskBatchSampler(task_slices([7, 21]), 4, rank=1, world_size=2)  # only rank 0 speaks
    assert [record.getMessage() for record in caplog.records] == [
        "12 rows are left out of each epoch: they fill no global batch, or by weight.",
        "task0 is never used: its 7 rows an epoch do not fill a global batch of 8 rows.",
    ]
    caplog.clear()
    TaskBatchSampler(task_slices([8, 16]), 4, world_size=2)
    assert not caplog.records


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"batch_size": 4, "batch_tasks": "all"}, "batch_tasks is 'all'; choose one of 'one', 'mixed'"),
        ({"batch_size": 6, "world_size": 2}, r"no task fills a global batch of 12 rows \(task0: 10 rows an epoch"),
    ],
)
def test_refuses_what_cannot_work(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskBatchSampler(task_slices([10, 11]), **kwargs)
    assert len(TaskBatchSampler(task_slices([10, 11]), 6, world_size=2, batch_tasks="mixed")) == 1
