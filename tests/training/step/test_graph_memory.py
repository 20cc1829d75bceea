"""Which micro-batches keep their graph."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from step_helpers import make_pairs, make_trainer, write_media

from llave_hf.training.step.graph_memory import GIB, GraphMemory, most_work


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


def test_the_choice_is_the_best_of_all_subsets() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(60):
        count = int(numbers.integers(1, 9))
        sizes = numbers.integers(0, 200, count) * 1.0
        work = numbers.integers(1, 50, count) * 1.0
        room = float(numbers.integers(1, int(sizes.sum()) + 2)) if sizes.sum() else 1.0
        found = most_work(sizes, work, room)
        subsets = [one for many in range(count + 1) for one in combinations(range(count), many)]
        gains = {one: work[list(one)].sum() for one in subsets}
        assert sizes[list(found)].sum() <= room
        best = max(gain for one, gain in gains.items() if sizes[list(one)].sum() <= room)
        # Each size is rounded up to a unit, so it is at least the best of a room that is so much smaller.
        nearly = max(gain for one, gain in gains.items() if sizes[list(one)].sum() <= room * (1 - len(one) / 1024))
        assert nearly <= work[list(found)].sum() <= best


def test_what_the_largest_takes_is_used_without_a_budget(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    batch = trainer.data_collator(make_pairs(root, 12, kinds=("text", "image")))["micro_batches"]
    memory = GraphMemory(trainer.model.config, trainer.args, tower_runs_twice=True)
    sizes = [memory.size(one) for one in batch]
    assert max(sizes) > 2 * min(sizes)
    kept = memory.chosen(batch, but_last=True)
    assert len(batch) - 1 not in kept
    assert 0.7 * max(sizes) < sum(sizes[number] for number in kept) <= max(sizes)
    trainer.args.graph_memory_gb = 3 * max(sizes) / GIB
    more = GraphMemory(trainer.model.config, trainer.args, tower_runs_twice=True).chosen(batch, but_last=True)
    assert 2 * max(sizes) < sum(sizes[number] for number in more) <= 3 * max(sizes)


def test_a_frozen_language_model_runs_texts_once_for_nothing(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2, freeze=["language_model"])
    batch = trainer.data_collator(make_pairs(root, 12, kinds=("text", "image")))["micro_batches"]
    memory = GraphMemory(trainer.model.config, trainer.args, tower_runs_twice=True)
    texts = {number for number, one in enumerate(batch) if "pixel_values" not in one}
    assert len(texts) > 2
    assert not any(memory.size(batch[number]) for number in texts)
    assert texts < memory.chosen(batch, but_last=True)


def test_patches_are_counted_from_the_pixels(root: Path) -> None:
    trainer = make_trainer(root)
    memory = GraphMemory(trainer.model.config, trainer.args, tower_runs_twice=True)
    batch = trainer.data_collator(make_pairs(root, 4, kinds=("image",)))["micro_batches"][-1]
    tiles = batch["pixel_values"].shape[0]
    by_tokens = memory.bytes.token * batch["input_ids"].numel()
    assert memory.size(batch) == by_tokens + memory.bytes.patch * tiles * 16  # 28 pixels, patches of 7
    assert batch["pixel_values"].dtype == torch.uint8


def test_copies_of_weights_are_counted_once_for_all_graphs(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    batch = trainer.data_collator(make_pairs(root, 12, kinds=("text", "image")))["micro_batches"]

    def chosen(casts: int, room: float) -> set[int]:
        trainer.args.graph_memory_gb = room / GIB
        memory = GraphMemory(trainer.model.config, trainer.args, tower_runs_twice=True, casts=casts)
        return memory.chosen(batch, but_last=False)

    sizes = [GraphMemory(trainer.model.config, trainer.args, tower_runs_twice=True).size(one) for one in batch]
    everything, casts = sum(sizes), 2 * int(max(sizes))
    assert len(chosen(casts, everything + casts)) == len(batch)
    some = chosen(casts, everything)
    assert 1 < len(some) < len(batch)
    assert sum(sizes[number] for number in some) + casts <= everything
    assert some == chosen(0, everything - casts)
