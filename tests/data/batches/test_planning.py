"""Micro-batches: full of real tokens, within their limits, and complete."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llave_hf.data.batches import planning
from llave_hf.data.batches.planning import KINDS, plan_micro_batches, token_fill
from llave_hf.model.geometry_llave import num_image_tokens, select_grid

PINPOINTS = [[384 * columns, 384 * rows] for columns in range(1, 7) for rows in range(1, 7)]


def test_docstring_example() -> None:
    assert doctest.testmod(planning) == doctest.TestResults(failed=0, attempted=1)


@given(
    samples=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 400)), max_size=40),
    size=st.none() | st.integers(1, 9),
    budget=st.none() | st.integers(1, 2000),
)
def test_each_sample_is_in_one_group_of_its_kind_within_the_limits(
    samples: list[tuple[str, int]], size: int | None, budget: int | None
) -> None:
    kinds, lengths = [kind for kind, _ in samples], [length for _, length in samples]
    groups = plan_micro_batches(kinds, lengths, mini_batch_size=size, mini_batch_num_tokens=budget)
    assert sorted(place for group in groups for place in group) == list(range(len(samples)))
    order = [KINDS.index(kinds[place]) for group in groups for place in group]
    assert order == sorted(order)
    for group in groups:
        assert len({kinds[place] for place in group}) == 1
        assert [lengths[place] for place in group] == sorted(lengths[place] for place in group)
        assert size is None or len(group) <= size
        assert budget is None or len(group) == 1 or len(group) * max(lengths[p] for p in group) <= budget
    if size is None and budget is None:
        assert len(groups) == len(set(kinds))


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), budget=st.integers(1, 300))
def test_no_other_cut_has_fewer_padded_tokens(lengths: list[int], budget: int) -> None:
    """Against every cut of the sorted lengths there is."""
    overhead = max(1, budget // 64)

    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * max(group) + overhead for group in groups)

    ordered = sorted(lengths)
    best = None
    for cuts in range(2 ** (len(lengths) - 1)):
        groups, current = [], [ordered[0]]
        for place, length in enumerate(ordered[1:]):
            if cuts >> place & 1:
                groups.append(current)
                current = []
            current.append(length)
        groups.append(current)
        if all(len(group) == 1 or len(group) * max(group) <= budget for group in groups):
            best = cost(groups) if best is None else min(best, cost(groups))
    planned = plan_micro_batches(["text"] * len(lengths), lengths, mini_batch_num_tokens=budget)
    assert cost([[lengths[place] for place in group] for group in planned]) == best


def texts(rng: np.random.Generator, count: int) -> list[int]:
    """22 tokens of prompt, and as many words as captions, questions and answers have."""
    return (22 + np.clip(rng.lognormal(2.5, 1.0, count), 1, 500)).astype(int).tolist()


def pictures(rng: np.random.Generator, count: int) -> list[int]:
    """A picture of any shape in "anyres_max_9" tiles of 27 x 27 tokens, with an instruction."""
    lengths = []
    for width, height in rng.integers(150, 1200, (count, 2)).tolist():
        grid = select_grid(width, height, PINPOINTS)
        lengths.append(
            40
            + num_image_tokens(
                width,
                height,
                num_tiles=1 + grid[0] // 384 * (grid[1] // 384),
                side=27,
                image_size=384,
                pinpoints=PINPOINTS,
                rounding="truncate",
            )
        )
    return lengths


@pytest.mark.parametrize("budget", [8192, 16384])
@pytest.mark.parametrize("pairs", [32, 128, 512])
@pytest.mark.parametrize("sides", [(texts, pictures), (pictures, texts), (pictures, pictures)])
def test_mixes_like_mmebs_are_filled_to_97_percent(sides: tuple[object, object], pairs: int, budget: int) -> None:
    rng = np.random.default_rng(pairs)
    lengths, kinds = [], []
    for side in sides:
        lengths += side(rng, pairs)  # type: ignore[operator]
        kinds += ["image" if side is pictures else "text"] * pairs
    groups = plan_micro_batches(kinds, lengths, mini_batch_num_tokens=budget)
    assert token_fill(groups, lengths) >= 0.97
    mixed = [list(range(start, min(start + 16, 2 * pairs))) for start in range(0, 2 * pairs, 16)]
    unsorted = np.random.default_rng(0).permutation(2 * pairs)
    assert token_fill([[int(unsorted[p]) for p in group] for group in mixed], lengths) < 0.75


def test_parts_are_nearly_equal_without_a_budget() -> None:
    groups = plan_micro_batches(["text"] * 33, list(range(33)), mini_batch_size=32)
    assert [len(group) for group in groups] == [16, 17]
    assert plan_micro_batches([], [], mini_batch_size=4) == []


def test_equal_lengths_stay_in_their_order() -> None:
    assert plan_micro_batches(["text"] * 5, [7, 3, 7, 3, 7]) == [[1, 3, 0, 2, 4]]


@pytest.mark.parametrize("name", ["mini_batch_size", "mini_batch_num_tokens"])
def test_a_limit_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        plan_micro_batches(["text"], [3], **{name: 0})
