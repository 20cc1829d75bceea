"""A run that gets SIGTERM writes a checkpoint and ends, and goes on from it to the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_recipe, write_training_data
from safetensors.torch import load_file
from transformers import TrainerCallback

from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train
from llave_hf.training.trainer import LlaveTrainer


class SendsTo(TrainerCallback):
    """Sends this process the signal, twice, in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_all_is_kept_and_goes_on(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(write_training_data(tmp_path / "data", rows=12), max_steps=4, save_steps=100)
    train(load_recipe(recipe, ["--output_dir", str(tmp_path / "whole")]))
    before = signal.getsignal(signal.SIGTERM)
    options = ["--output_dir", str(tmp_path / "stopped"), "--save_strategy", strategy, "--resume_from_checkpoint"]
    prepare = LlaveTrainer.__init__

    def told(self: LlaveTrainer, *args: Any, **kwargs: Any) -> None:
        prepare(self, *args, **kwargs)
        self.add_callback(SendsTo(1))

    with monkeypatch.context() as patch:
        patch.setattr(LlaveTrainer, "__init__", told)
        with pytest.raises(SystemExit) as ended:
            train(load_recipe(recipe, options))
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert "Stopped by SIGTERM after step 2: " in capsys.readouterr().out
    left = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert "checkpoint-2" in left and not left & {"config.json", "README.md", "eval", "_unfinished"}
    train(load_recipe(recipe, options))
    expected, found = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
