"""Settings that come too early for random weights are told: as a run begins, and by the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model, write_recipe, write_training_data

from llave_hf.data.batches.collator import LlaveCollator
from llave_hf.data.pairs import load_pairs
from llave_hf.training.recipe.early_settings import early_settings
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.summary import describe_run

FOCAL = {"focal_margin": 0.3, "hardness_strength": 0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"batch_groups": True}, ["batch_groups from random weights costs points"]),
        ({"false_negative_margin": -0.05}, ["false_negative_margin below 0 from random weights"]),
        ({"false_negative_margin": 0.05}, []),
        (FOCAL, ["focal_margin drives a positive"]),
        (FOCAL | {"batch_groups": True}, ["batch_groups from random", "focal_margin drives"]),
    ],
)
def test_what_comes_too_early(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    found = list(early_settings(load_recipe(write_recipe(tmp_path, **changes))))
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))
    (tmp_path / "model").mkdir()
    trained = {"model": str(tmp_path / "model"), "from_scratch": None}
    assert not list(early_settings(load_recipe(write_recipe(tmp_path, **changes, **trained))))


def test_a_run_begins_with_it(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(write_training_data(tmp_path), **FOCAL))
    pairs = load_pairs(recipe.data.train_data, media_root=recipe.data.media_root)
    model, processor = tiny_model()
    said = describe_run(recipe, model, pairs, collate=LlaveCollator(processor, None, None), batches=8)
    assert "  note       focal_margin drives a positive" in said
