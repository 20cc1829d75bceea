"""What saving makes of a run that is no trainer: one whole model in the dtype that was opened."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from helpers import tiny_model
from safetensors.torch import load_file

from llave_hf import LlaveModel
from llave_hf.training.finish.finished_model import ADAPTER_FOLDER, save_finished
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.tuning.lora import tuned_model


class Run:
    """Of one process, or as one of several that share a folder."""

    def __init__(self, model: Any, folder: Path, *, sharded: bool = False, writes: bool = True) -> None:
        self.args: Any = SimpleNamespace(output_dir=str(folder), should_save=writes, device=torch.device("cpu"))
        self.accelerator = Accelerator(cpu=True)
        self.model = self.model_wrapped = model
        self.opened_dtype = torch.bfloat16
        self.is_fsdp_enabled = sharded
        self.is_deepspeed_enabled = False

    def save_model(self, output_dir: str | None = None) -> None:
        if self.args.should_save:
            self._save(output_dir)

    def _save(self, output_dir: str | None = None) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir)


def no_base() -> LlaveModel:
    raise AssertionError("there is no adapter, and a base was asked for")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_whole_model_is_rounded_to_what_was_opened_and_the_run_goes_on_with_it(tmp_path: Path) -> None:
    model, _ = tiny_model()
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = Run(model, tmp_path)
    save_finished(run, no_base)
    found = stored(tmp_path)
    assert all(torch.equal(found[name], tensor.to(torch.bfloat16)) for name, tensor in trained.items())
    assert run.model is run.model_wrapped
    assert run.model.dtype == torch.bfloat16


def test_a_sharded_model_is_written_as_its_engine_gives_it(tmp_path: Path) -> None:
    model, _ = tiny_model()
    run = Run(model, tmp_path, sharded=True)
    save_finished(run, no_base)
    assert run.model is model
    assert {tensor.dtype for tensor in stored(tmp_path).values()} == {torch.float32}


def adapted(tmp_path: Path) -> Any:
    """The tiny model under an adapter that changes something."""
    pytest.importorskip("peft")
    args = LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", lora={"r": 2})
    model = tuned_model(tiny_model()[0], args)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    return model


def test_an_adapter_is_saved_and_merged_into_its_base_in_what_was_opened(tmp_path: Path) -> None:
    model, base = adapted(tmp_path), tiny_model()[0]
    model.config.matryoshka_dimensions = [24, 8]
    run = Run(model, tmp_path)
    save_finished(run, lambda: tiny_model()[0])
    assert (tmp_path / ADAPTER_FOLDER / "adapter_model.safetensors").exists()
    whole = model.merge_and_unload()
    name = "backbone.language_model.layers.0.self_attn.q_proj.weight"
    found = stored(tmp_path)
    assert torch.equal(found[name], whole.get_parameter(name).detach().to(torch.bfloat16))
    assert not torch.equal(found[name], base.get_parameter(name).detach().to(torch.bfloat16))
    assert isinstance(run.model, LlaveModel)
    assert run.model is run.model_wrapped
    assert json.loads((tmp_path / "config.json").read_text())["matryoshka_dimensions"] == [24, 8]


def test_a_rank_that_does_not_write_opens_what_another_wrote(tmp_path: Path) -> None:
    save_finished(Run(adapted(tmp_path), tmp_path), lambda: tiny_model()[0])
    other = Run(adapted(tmp_path), tmp_path, writes=False)
    save_finished(other, no_base)
    assert isinstance(other.model, LlaveModel)
    found = stored(tmp_path)
    assert all(torch.equal(p, found[name]) for name, p in other.model.named_parameters())
