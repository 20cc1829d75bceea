"""Streams over two real ranks: the run of one rank, and a resume to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import write_recipe, write_training_data
from test_training import check_that_two_train_as_one_and_resume

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
    check_that_two_train_as_one_and_resume(recipe, done=7)
