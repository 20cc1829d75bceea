"""The published checkpoints of tests/fixtures/model, and folders made from them with something changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from llave_hf import LlaveModel, LlaveProcessor

ROOT = Path(__file__).parents[2] / "fixtures" / "model"
SETS = ("tiny_2x2", "tiny_6x6")
TOWER = "model.vision_tower."


@cache
def published(name: str) -> tuple[LlaveModel, LlaveProcessor]:
    """The checkpoint `name` of [`SETS`], opened as a user opens it. Callers must not change what they get."""
    return AutoModel.from_pretrained(ROOT / name), AutoProcessor.from_pretrained(ROOT / name)


def changed(
    folder: Path,
    *,
    name: str = "tiny_2x2",
    config: Callable[[dict[str, Any]], None] | None = None,
    weights: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """A copy of a published checkpoint in `folder`, its fields, weights or files changed."""
    leave_out = shutil.ignore_patterns("inputs", "cases.json", "reference.safetensors", *without)
    shutil.copytree(ROOT / name, folder, ignore=leave_out, dirs_exist_ok=True)
    if config is not None:
        fields = json.loads((folder / "config.json").read_text())
        config(fields)
        (folder / "config.json").write_text(json.dumps(fields))
    if weights is not None:
        tensors = weights(load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
