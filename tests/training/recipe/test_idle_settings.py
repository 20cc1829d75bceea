"""Settings that another setting leaves without effect are told, by the run and by the doctor; no others are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import write_recipe, write_training_data

from llave_hf.doctor import examine
from llave_hf.training.recipe.idle_settings import idle_settings
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
RECIPES = [path for path in RECIPES if path.name not in ("ablation.yaml", "hardness.yaml")]  # sweeps
PLAIN = {"max_steps": -1, "save_steps": 500, "logging_steps": 500}

TAUGHT = {"hardness_teacher": "some/model"}
GRADED_ALONE = {"contrastive_weight": 0, "distill_weight": 1, "use_negatives": True}

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # (the setting that has no effect, with what, and what gives it one)
    ("hardness_warmup_steps", {"hardness_warmup_steps": 0.1, "hardness_strength": 0}, {"hardness_strength": 9}),
    ("hardness_warmup_steps", {"hardness_warmup_steps": 9, "hardness_strength": 0}, {"effective_negatives": 3}),
    (
        "hardness_warmup_steps",
        {"hardness_warmup_steps": 9, "hardness_strength": 0},
        {"hardness_strength_by_task": {"Caption": 5}},
    ),
    ("max_hardness_weight", {"max_hardness_weight": 50, "hardness_strength": 0}, {"hardness_strength": 9}),
    (
        "hardness_mode",
        {"hardness_mode": "all_negatives", "use_negatives": True, "hardness_strength": 0},
        {"hardness_strength": 9},
    ),
    ("hardness_source", {"hardness_source": "ema", "hardness_strength": 0}, {"teacher_margin": 0.1}),
    (
        "hardness_teacher",
        {"hardness_source": "teacher", "hardness_teacher": "some/model", "hardness_strength": 0},
        {"hardness_strength": 9},
    ),
    ("ema_decay", {"ema_decay": 0.9}, {"hardness_source": "ema"}),
    (
        "hardness_teacher",
        {"hardness_source": "teacher", "hardness_teacher": "some/model", "hardness_strength": 0},
        {"use_negatives": True, "distill_weight": 1, "distill_source": "teacher"},
    ),
    (
        "hardness_reference",
        {
            "hardness_reference": "positive",
            "hardness_source": "teacher",
            "hardness_teacher": "some/model",
            "hardness_strength": 0,
        },
        {"hardness_strength": 9},
    ),
    ("margin_strategy", {"margin_strategy": "relative"}, {"false_negative_margin": -0.05}),
    ("distill_source", {"distill_source": "teacher"}, {"distill_weight": 1, "use_negatives": True, **TAUGHT}),
    ("teacher_temperature", {"teacher_temperature": 0.1}, {"distill_weight": 1, "use_negatives": True}),
    ("hardness_strength", {"hardness_strength": 5, **GRADED_ALONE}, {"contrastive_weight": 0.5}),
    ("directions", {"directions": ["query_to_doc"], **GRADED_ALONE}, {"contrastive_weight": 0.5}),
    ("temperature_learning_rate", {"temperature_learning_rate": 0.1}, {"learn_temperature": True}),
    ("share_negatives", {"share_negatives": True}, {"use_negatives": True}),
    ("count_duplicates_once", {"count_duplicates_once": False, "mask_duplicates": False}, {"mask_duplicates": True}),
    ("stream_buffer_size", {"stream_buffer_size": 50}, {"streaming": True}),
    ("graph_memory_gb", {"graph_memory_gb": 1.0}, {"mini_batch_size": 2}),
    ("vision_memory_gb", {"vision_memory_gb": 1.0, "freeze": ["vision_tower"]}, {"mini_batch_size": 2}),
    ("vision_memory_gb", {"vision_memory_gb": 1.0, "mini_batch_size": 2}, {"freeze": ["vision_tower"]}),
    ("max_bad_samples", {"max_bad_samples": 3}, {"on_bad_sample": "skip"}),
    ("dataloader_in_order", {"dataloader_in_order": False}, {"dataloader_num_workers": 1}),
    ("eval_data", {"eval_data": "somewhere"}, {"eval_benchmark": "b.yaml"}),
    (
        "eval_subsets",
        {"eval_subsets": ["a"]},
        {"eval_benchmark": "b.yaml", "eval_strategy": "epoch"},
    ),
    ("eval_subsets", {"eval_subsets": ["a"], "eval_benchmark": "b.yaml"}, {"eval_on_start": True}),
    ("do_eval", {"do_eval": True}, {"eval_benchmark": "b.yaml"}),
    ("eval_steps", {"eval_steps": 5, "eval_benchmark": "b.yaml"}, {"eval_strategy": "steps"}),
    (
        "eval_steps",
        {"eval_steps": 5, "eval_benchmark": "b.yaml", "eval_strategy": "epoch"},
        {"eval_strategy": "steps"},
    ),
    ("eval_delay", {"eval_delay": 5, "eval_benchmark": "b.yaml"}, {"eval_strategy": "steps"}),
    ("save_steps", {"save_steps": 5, "save_strategy": "epoch"}, {"save_strategy": "steps"}),
    ("save_steps", {"save_steps": 5, "save_strategy": "no"}, {"save_strategy": "steps"}),
    ("save_total_limit", {"save_total_limit": 5, "save_strategy": "no"}, {"save_strategy": "epoch"}),
    ("save_only_model", {"save_only_model": True, "save_strategy": "no"}, {"save_strategy": "epoch"}),
    ("logging_steps", {"logging_steps": 5, "logging_strategy": "epoch"}, {"logging_strategy": "steps"}),
    ("ignore_data_skip", {"ignore_data_skip": True}, {"resume_from_checkpoint": "true"}),
    ("hub_model_id", {"hub_model_id": "a/b"}, {"push_to_hub": True}),
    ("hub_strategy", {"hub_strategy": "end"}, {"push_to_hub": True}),
    ("hub_private_repo", {"hub_private_repo": True}, {"push_to_hub": True}),
    ("hub_revision", {"hub_revision": "next"}, {"push_to_hub": True}),
    ("run_name", {"run_name": "first"}, {"report_to": "tensorboard"}),
    ("project", {"project": "mine"}, {"report_to": "trackio"}),
    ("trackio_space_id", {"trackio_space_id": "a/b", "report_to": "tensorboard"}, {"report_to": "trackio"}),
    ("warmup_steps", {"warmup_steps": 0.1, "lr_scheduler_type": "constant"}, {"lr_scheduler_type": "cosine"}),
    (
        "warmup_steps",
        {
            "warmup_steps": 3,
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "eval_strategy": "epoch",
            "eval_benchmark": "b.yaml",
        },
        {"lr_scheduler_type": "constant_with_warmup"},
    ),
    (
        "gradient_checkpointing_kwargs",
        {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_checkpointing": True},
    ),
    ("num_train_epochs", {"num_train_epochs": 2, "max_steps": 5}, {"max_steps": -1}),
    ("model_revision", {"model_revision": "v1"}, {"model": "some/model", "from_scratch": None}),
]


def told(tmp_path: Path, **changes: Any) -> list[str]:
    return [
        line.partition(" has no effect: ")[0] for line in idle_settings(load_recipe(write_recipe(tmp_path, **changes)))
    ]


@pytest.mark.parametrize(
    ("name", "idle", "effective"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_is_told_where_it_has_no_effect_and_only_there(
    tmp_path: Path, name: str, idle: dict[str, Any], effective: dict[str, Any]
) -> None:
    assert name in told(tmp_path, **{**PLAIN, **idle})
    assert name not in told(tmp_path, **{**PLAIN, **idle, **effective})


def test_a_revision_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    changes = {**PLAIN, "model": str(tmp_path / "model"), "from_scratch": None, "model_revision": "v1"}
    assert told(tmp_path, **changes) == ["model_revision"]


def test_a_plain_recipe_has_none(tmp_path: Path) -> None:
    assert told(tmp_path) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_have_none(path: Path) -> None:
    assert idle_settings(load_recipe(path, ["--use_cpu", "--tf32", "null"])) == []


def test_the_run_and_the_doctor_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(write_training_data(tmp_path), ema_decay=0.9, max_steps=1)
    line = "ema_decay has no effect: hardness_source is self, and no average is kept"
    assert [finding.text for finding in examine(str(path), tflops=1.0) if finding.text == line] == [line]
    train(load_recipe(path))
    assert f"  note       {line}\n" in capsys.readouterr().out
