"""Telemetry of a real run: in the log, in the folder, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import write_recipe, write_training_data

from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train
from llave_hf.training.trainer import LlaveTrainer

SETTINGS = {"per_device_train_batch_size": 8, "max_steps": 6, "save_steps": 3}


def run(root: Path, output: str, *overrides: str, **changes: Any) -> LlaveTrainer:
    recipe = write_recipe(root, **{**SETTINGS, **changes}, output_dir=str(root / output))
    return train(load_recipe(recipe, overrides))


def told(trainer: LlaveTrainer) -> list[dict[str, float]]:
    return [
        {key: log[key] for key in log if key.startswith(("gap", "auc", "effective"))}
        for log in trainer.state.log_history
    ]


@pytest.mark.parametrize("caching", [{}, {"mini_batch_size": 3}], ids=["one graph", "cached"])
def test_a_run_tells_what_its_gradient_rests_on(caching: dict[str, Any], tmp_path: Path) -> None:
    trainer = run(write_training_data(tmp_path), "out", **caching)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 6
    for log in logs:
        assert log["gap_easy"] >= log["gap_hard"]
        assert 0 <= log["auc"] <= 1
        assert 1 <= log["effective_negatives"] <= 7 + 1e-6
    written = json.loads((tmp_path / "out" / "telemetry.json").read_text())
    assert {task["name"] if isinstance(task, dict) else task for task in written["tasks"]} <= {"Caption", "Question"}
    assert (tmp_path / "out" / "telemetry_similarities.png").exists()
    assert not list((tmp_path / "out").glob("*.pt"))


def test_a_resumed_run_tells_the_same(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    whole = run(root, "whole", logging_steps=2)
    checkpoint = str(root / "whole" / "checkpoint-3")  # between two logs
    resumed = run(root, "resumed", "--resume_from_checkpoint", checkpoint, logging_steps=2)
    assert resumed.watch.telemetry is not None
    assert whole.watch.telemetry is not None
    assert resumed.watch.telemetry.history == whole.watch.telemetry.history
    assert told(resumed)[-2:] == told(whole)[-2:]


def test_it_can_be_off(tmp_path: Path) -> None:
    trainer = run(write_training_data(tmp_path), "out", telemetry_every=0)
    assert trainer.watch.telemetry is None
    assert not (tmp_path / "out" / "telemetry.json").exists()
    assert not any("gap_hard" in log for log in trainer.state.log_history)


def test_the_card_shows_it(tmp_path: Path) -> None:
    run(write_training_data(tmp_path), "out")
    card = (tmp_path / "out" / "README.md").read_text()
    latest = json.loads((tmp_path / "out" / "telemetry.json").read_text())["latest"]
    assert f"| overlap of positives and hardest negatives | {latest['overlap']:.2f} |" in card
    assert f"| effective number of negatives | {latest['effective_negatives']:.2f} |" in card
    assert "](assets/similarities.png)" in card
    assert (tmp_path / "out" / "assets" / "similarities.png").exists()
