"""Training on streams: from a recipe, resumed to the bit, looked at by the doctor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_recipe, write_training_data
from safetensors.torch import load_file

from llave_hf.data.streaming.tasks import StreamedPairs
from llave_hf.doctor import examine
from llave_hf.train import main
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import load_training_pairs, train

STREAM: dict[str, Any] = {"streaming": True, "stream_buffer_size": 8}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_training_data(tmp_path)


@pytest.mark.parametrize(
    ("changes", "done"), [({}, 7), ({"batch_tasks": "mixed", "dataloader_num_workers": 2}, 13)], ids=str
)
def test_resume_goes_on_to_the_same_weights_to_the_bit(data: Path, changes: dict[str, Any], done: int) -> None:
    """Across an epoch's end or within the second epoch: 12 steps an epoch, 14 in all."""
    recipe = write_recipe(data, output_dir=str(data / "whole"), max_steps=14, save_steps=done, **STREAM, **changes)
    train(load_recipe(recipe))
    broken = data / "broken"
    broken.mkdir()
    for name in (f"checkpoint-{done}", "initial"):
        shutil.copytree(data / "whole" / name, broken / name)
    train(load_recipe(recipe, ["--output_dir", str(broken), "--resume_from_checkpoint"]))
    expected, found = load_file(data / "whole/model.safetensors"), load_file(broken / "model.safetensors")
    start = load_file(data / "whole/initial/model.safetensors")
    assert any(not torch.equal(expected[name], start[name]) for name in expected)
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_epochs_come_from_the_counted_rows(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(data, max_steps=-1, num_train_epochs=1.5, save_strategy="no", **STREAM)
    trainer = train(load_recipe(recipe))
    assert trainer.state.global_step == 18
    assert trainer.state.epoch == 1.5
    said = capsys.readouterr().out
    assert "48 pairs of 2 tasks, one in a batch, streamed" in said
    assert "18, 12 an epoch (1.50 epochs)" in said
    history = trainer.watch.telemetry.history if trainer.watch.telemetry is not None else []
    assert len(history) == 18
    tasks = [batch["task_ids"].unique().tolist() for batch in trainer.get_train_dataloader()]
    assert sorted(tasks) == [[0]] * 6 + [[1]] * 6


def test_a_bad_row_stops_the_run_with_one_clear_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(data, **STREAM, model=None)
    train(load_recipe(recipe, ["--max_steps", "1", "--output_dir", str(data / "first"), "--save_steps", "9"]))
    (data / "images" / "20.png").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(recipe), "--model", str(data / "first"), "--from_scratch", "null", "--processor", "{}"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "llave: error: " in error
    assert "row 20 of 'Caption'" in error or "row 20 of 'Question'" in error
    assert "20.png" in error


def test_the_buffer_has_to_hold_a_batch(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(write_recipe(data, streaming=True, stream_buffer_size=3))])
    assert "stream_buffer_size is 3; it must hold a global batch of 4 rows" in capsys.readouterr().err


def test_the_doctor_reads_streams(data: Path) -> None:
    recipe = str(write_recipe(data, **STREAM))
    assert isinstance(load_training_pairs(load_recipe(recipe).data, use_negatives=False), StreamedPairs)
    found = "\n".join(map(str, examine(recipe, tflops=100.0)))
    assert "48 rows of 2 tasks; streamed: rows and files are checked as they are read" in found
    assert "Caption: 24 samples with pictures or videos opened" in found
    assert "PROBLEM" not in found
    (data / "images" / "5.png").unlink()
    problems = [str(finding) for finding in examine(recipe, tflops=100.0) if finding.level == "PROBLEM"]
    assert any("row 5 of 'Caption'" in problem and "5.png" in problem for problem in problems)
    assert any("row 5 of 'Question'" in problem for problem in problems)
