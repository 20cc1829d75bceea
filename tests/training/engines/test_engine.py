"""What an engine asks of a training step, told from accelerate and the model alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.utils import DistributedType
from helpers import tiny_model
from torch import nn

from llave_hf.training.engines.engines import Engine, can_leave_parameters_unused
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.tuning.parts import freeze_parts


def deepspeed(**zero: Any) -> Any:
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": zero})
    state = SimpleNamespace(deepspeed_plugin=plugin)
    return SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=state)


class Sharded(nn.Linear):
    def set_requires_gradient_sync(self, on: bool) -> None:
        """What FSDP2 gives a module that it spreads."""


def test_one_process_asks_for_nothing() -> None:
    assert Engine.of(Accelerator(cpu=True), nn.Linear(2, 2)) == Engine()


def test_a_sharded_model_is_spread_whether_or_not_accelerate_knows() -> None:
    fsdp = SimpleNamespace(distributed_type=DistributedType.FSDP)
    assert Engine.of(fsdp, nn.Linear(2, 2)) == Engine(spreads=True, alike=True)
    assert Engine.of(Accelerator(cpu=True), Sharded(2, 2)) == Engine(spreads=True, alike=True)


@pytest.mark.parametrize(
    ("zero", "expected"),
    [
        ({"stage": 0}, Engine(alike=True)),
        ({"stage": 2}, Engine(alike=True, first=True)),
        ({"stage": 3}, Engine(spreads=True, alike=True, first=True)),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, Engine(alike=True, first=True, last=True)),
        ({"stage": 2, "offload_optimizer": {"device": "none"}}, Engine(alike=True, first=True)),
    ],
    ids=str,
)
def test_deepspeed_asks_by_its_stage_and_where_its_optimizer_is(zero: dict[str, Any], expected: Engine) -> None:
    assert Engine.of(deepspeed(**zero), nn.Linear(2, 2)) == expected


@pytest.mark.parametrize(
    ("frozen", "settings", "expected"),
    [
        (["vision_tower", "projector"], {"mini_batch_size": 4}, False),
        (["vision_tower"], {"mini_batch_size": 4}, True),
        ([], {}, True),  # of a data set that is not known beforehand
    ],
)
def test_ddp_searches_for_unused_parameters_where_a_text_leaves_some(
    frozen: list[str], settings: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    model, _ = tiny_model()
    freeze_parts(model, frozen)
    args = LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)
    assert can_leave_parameters_unused(model, args, None) is expected
