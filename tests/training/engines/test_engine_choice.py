"""What `accelerate launch` tells a process, and runs that are refused as they begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import tiny_model, write_recipe, write_training_data
from step_helpers import trainer_of

from llave_hf.errors import UserError
from llave_hf.training.engines.choice import EngineChoice
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "false"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
SAVES = "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"


def test_a_process_knows_its_engine() -> None:
    assert EngineChoice.of_environment({}).name == "DDP"
    assert EngineChoice.of_environment(FSDP2) == EngineChoice("FSDP", fsdp_version=2)
    assert EngineChoice.of_environment({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}).fsdp_offload_params
    assert EngineChoice.of_environment(ZERO3).name == "DeepSpeed ZeRO-3"
    assert not EngineChoice.of_environment({**ZERO3, SAVES: "false"}).zero3_save_16bit_model


def test_deepspeeds_own_file_goes_before_what_accelerate_says(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    found = EngineChoice.of_environment({**ZERO3, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)})
    assert (found.zero_stage, found.zero3_save_16bit_model) == (3, False)
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        yaml.safe_dump({"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": str(file)}})
    )
    assert EngineChoice.of_file(config) == found
    file.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        EngineChoice.of_file(config)
    config.write_text("- a list")
    with pytest.raises(UserError, match="is no mapping"):
        EngineChoice.of_file(config)


@pytest.mark.parametrize(
    ("environment", "changes", "message"),
    [
        (FSDP2, {"muon_learning_rate": 0.01}, "muon_learning_rate needs whole matrices"),
        (ZERO3, {"hardness_source": "ema"}, "hardness_source ema averages"),
        (FSDP2, {"learn_temperature": True}, "learn_temperature needs an optimizer"),
        (FSDP2, {"optim": "sgd"}, "optim sgd has no state"),
        (ZERO3, {"batch_groups": True, "mine_every": 1}, "mine_every encodes with a whole model on every rank"),
        ({**FSDP2, "FSDP_VERSION": "1"}, {}, "set fsdp_version: 2"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, {}, "pins memory for a GPU"),
        ({**ZERO3, SAVES: "false"}, {}, "would end without a model"),
        (
            FSDP2,
            {"quantization": {"bits": 4}, "lora": {"r": 2}, "bf16": True, "model": "m", "from_scratch": None},
            "quantization has 4-bit weights",
        ),
    ],
)
def test_a_run_is_refused_before_anything_is_opened(
    environment: dict[str, str],
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load_recipe(write_recipe(tmp_path, **changes))  # there are no data, and nobody looks for them
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        train(recipe)


def test_fsdp_that_accelerate_leaves_out_is_no_fsdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(write_recipe(write_training_data(tmp_path)))
    assert recipe.training.use_cpu
    for name, value in FSDP2.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="accelerate leaves FSDP out on cpu"):
        trainer_of(*tiny_model(), tmp_path)
