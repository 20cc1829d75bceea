"""What is said of a run before it begins, from a recipe, a model, its data and a collator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model, write_recipe, write_training_data

from llave_hf.data.batches.collator import LlaveCollator
from llave_hf.data.pairs import load_pairs
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.summary import describe_loss, describe_run, sample_tokens
from llave_hf.training.tuning.parts import count_parameters, freeze_parts


def test_the_lines_hold_the_numbers_of_the_run(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    settings = {"per_device_train_batch_size": 6, "max_steps": 12, "gradient_accumulation_steps": 2}
    recipe = load_recipe(write_recipe(root, hardness_strength=4.0, freeze=["vision_tower"], **settings))
    pairs = load_pairs(recipe.data.train_data, media_root=recipe.data.media_root)
    model, processor = tiny_model()
    freeze_parts(model, ["vision_tower"])
    trained, frozen = count_parameters(model)
    said = describe_run(recipe, model, pairs, collate=LlaveCollator(processor, None, None), batches=8)
    assert f"{trained:,} parameters trained, {frozen:,} frozen" in said
    assert "48 pairs of 2 tasks" in said
    assert "batch      6 pairs, 6 a device" in said
    assert "5 per query" in said
    assert "hardness strength 4 of the model's own cosines" in said
    assert "12, 4 an epoch (3.00 epochs)" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hardness_strength": 0, "focal_margin": 0.3}, "temperature 0.02, Focal-InfoNCE with margin 0.3, both"),
        (
            {"hardness_source": "teacher", "hardness_teacher": "a/b", "hardness_reference": "positive"},
            "hardness strength 9 of cosines of a/b above the positive's, both directions",
        ),
        (
            {"contrastive_weight": 0.5, "distill_weight": 2, "use_negatives": True, "teacher_temperature": 0.1},
            "0.5 x temperature 0.02, hardness strength 9 of the model's own cosines, both directions; "
            "2 x graded labels, pos_score and neg_score at temperature 0.1",
        ),
        (
            {"contrastive_weight": 0, "distill_weight": 1, "use_negatives": True, "distill_source": "teacher"}
            | {"hardness_teacher": "a/b"},
            "  temperature 0.02, 1 x graded labels, cosines of a/b",
        ),
        (
            {"false_negative_margin": -0.05, "margin_strategy": "relative"},
            "both directions; without negatives over the positive's s - 0.05 |s|",
        ),
    ],
)
def test_the_loss_is_told_in_words(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    recipe = load_recipe(write_recipe(tmp_path, **{"hardness_strength": 9, "temperature": 0.02, **changes}))
    assert said in "  " + describe_loss(recipe.training)


def test_tokens_of_a_pair_are_the_mean_over_pairs_spread_over_the_data(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    pairs = load_pairs(str(root / "train"), media_root=str(root))
    _, processor = tiny_model()
    sampled = sample_tokens(LlaveCollator(processor, None, None), pairs)
    assert sampled.pairs == len(pairs) == 48
    one_by_one = [LlaveCollator(processor, None, None)([pair]) for pair in (pairs[i] for i in range(48))]
    tokens = [sum(int(part["attention_mask"].sum()) for part in batch["micro_batches"]) for batch in one_by_one]
    assert sampled.per_pair == pytest.approx(sum(tokens) / 48)
    assert {"text", "image"} <= set(sampled.kinds)


def test_tokens_of_rows_own_negatives_are_counted(tmp_path: Path) -> None:
    """Of one, of two, and of none, whose index is padded."""
    rows = [
        {"qry": f"question {row}", "pos_text": f"answer {row}", "neg_text": [f"wrong {row} {n}" for n in range(row)]}
        for row in (1, 2, 0)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    processor = tiny_model()[1]
    pairs = load_pairs(str(tmp_path / "rows.jsonl"))
    sampled = sample_tokens(LlaveCollator(processor, None, None), pairs)
    texts = [text for row in rows for text in (row["qry"], row["pos_text"], *row["neg_text"])]
    assert sampled.per_pair == pytest.approx(sum(len(processor(text=text)["input_ids"][0]) for text in texts) / 3)
