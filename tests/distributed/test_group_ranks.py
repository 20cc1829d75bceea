"""Batches of groups over two real ranks, mined again as the model learns: the run of one rank, a resume to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_model, write_recipe, write_training_data
from test_training import check_that_two_train_as_one_and_resume

from llave_hf.cli import main

pytestmark = pytest.mark.distributed


def test_two_ranks_mine_train_and_resume_as_one(tmp_path: Path) -> None:
    """14 steps of six an epoch, each of two groups; broken after 9, amid the second epoch."""
    root = write_training_data(tmp_path)
    for part in tiny_model(processor={"image_tiling": "none"}):
        part.save_pretrained(root / "model")
    command = ["mine", str(root / "train"), str(root / "model"), "--output", str(root / "mined")]
    mining = ["--group_size", "4", "--num_negatives", "0", "--relative_margin", "none", "--rank_max", "6"]
    main([*command, "--media_root", str(root), *mining])
    recipe = write_recipe(
        root,
        train_data=str(root / "mined"),
        batch_groups=True,
        mine_every=1,
        mine_options={"relative_margin": None, "rank_max": 6},
        per_device_train_batch_size=4,
        max_steps=14,
        save_steps=9,
        adam_epsilon=1e-3,
    )
    check_that_two_train_as_one_and_resume(recipe, done=9)
    kept = [np.load(root / name / "checkpoint-9" / "mined_groups.npz") for name in ("one", "two")]
    assert kept[0]["epoch"] == kept[1]["epoch"] == 1
    assert all(np.array_equal(kept[0][name], kept[1][name]) for name in ("task_0", "task_1"))
