"""Streams over two real ranks: the run of one rank, and a resume to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers import write_recipe, write_training_data
from test_training import launch, weights

pytestmark = pytest.mark.distributed


def test_two_ranks_train_to_the_weights_of_one_and_resume_to_the_bit(tmp_path: Path) -> None:
    """14 steps of 12 an epoch, broken after 7; the buffer holds two batches."""
    root = write_training_data(tmp_path)
    recipe = write_recipe(
        root,
        streaming=True,
        stream_buffer_size=8,
        per_device_train_batch_size=2,
        max_steps=14,
        save_steps=7,
        adam_epsilon=1e-3,
    )
    assert "2 x cpu" in launch(recipe, 2, "--output_dir", str(root / "two"))
    for name in ("one", "broken"):
        (root / name).mkdir()
        shutil.copytree(root / "two" / "initial", root / name / "initial")
    shutil.copytree(root / "two" / "checkpoint-7", root / "broken" / "checkpoint-7")
    launch(recipe, 2, "--output_dir", str(root / "broken"), "--resume_from_checkpoint")
    launch(recipe, 1, "--output_dir", str(root / "one"), "--per_device_train_batch_size", "4")
    start, one, two, broken = (weights(root / name) for name in ("two/initial", "one", "two", "broken"))
    for name in two:
        assert torch.equal(two[name], broken[name]), name
    moved = max((two[name] - start[name]).abs().max().item() for name in two)
    assert moved > 1e-3
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-3 * moved
