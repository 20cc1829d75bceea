"""The dtype of each weight, from a model and arguments alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from torch import nn

from llave_hf import LlaveModel
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.tuning.parts import freeze_parts
from llave_hf.training.tuning.precision import set_precision


def opened_in_bfloat16() -> LlaveModel:
    model = tiny_model()[0].to(torch.bfloat16)
    freeze_parts(model, ["vision_tower"])
    return model


def arguments(root: Path, **changes: object) -> LlaveTrainingArguments:
    return LlaveTrainingArguments(output_dir=str(root), use_cpu=True, report_to="none", **changes)


def test_under_autocast_what_is_trained_is_float32_and_frozen_weights_stay_but_for_layer_norms(tmp_path: Path) -> None:
    model = opened_in_bfloat16()
    set_precision(model, arguments(tmp_path), autocast=True)
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    frozen = [p for p in model.parameters() if not p.requires_grad and id(p) not in norms]
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if id(p) in norms} == {torch.float32}
    assert {p.dtype for p in frozen} == {torch.bfloat16}


def test_without_autocast_all_is_float32(tmp_path: Path) -> None:
    model = opened_in_bfloat16()
    values = {name: p.clone() for name, p in model.named_parameters()}
    set_precision(model, arguments(tmp_path), autocast=False)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(p, values[name].float()) for name, p in model.named_parameters())


def test_bfloat16_master_weights_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("llave_hf.training.tuning.precision.logger.warning", said.append)
    model, _ = tiny_model()
    set_precision(model, arguments(tmp_path, master_weights="bfloat16", learning_rate=1e-5), autocast=True)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert "at learning_rate 1e-05 weights above 0.00512 do not move" in said[0]
