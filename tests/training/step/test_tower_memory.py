"""A frozen vision tower runs once a step, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import tiny_model
from step_helpers import furthest, make_pairs, make_trainer, run_steps, trainer_of, write_media
from torch import nn

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.training.step.lockstep import tower_calls
from llave_hf.training.step.tower_memory import TowerMemory


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


def tower_layers(model: LlaveModel) -> list[nn.Module]:
    backbone = model.backbone
    return list(backbone.vision_tower.encoder.layers if hasattr(backbone, "vision_tower") else backbone.visual.blocks)


def count_runs(model: LlaveModel) -> list[int]:
    """How often a tower's first layer has worked: its forward is what a memory replaces."""
    runs = [0]

    def count(module: nn.Module, args: Any, output: Any) -> None:
        runs[0] += 1

    next(
        child for name, child in tower_layers(model)[0].named_modules() if name.endswith("mlp")
    ).register_forward_hook(count)
    return runs


@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_gives_the_same_gradients_with_half_the_runs(root: Path, tmp_path: Path, kind: str) -> None:
    folder = save_backbone(tmp_path / kind, kind)
    rows = make_pairs(root, 7, kinds=("mixed", "mixed", "mixed", "video"))
    found = []
    for memory in (0, 1):
        model, processor = LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder)
        trainer = trainer_of(
            model, processor, root, mini_batch_size=2, freeze=["vision_tower"], vision_memory_gb=memory
        )
        run_steps(trainer, [rows])  # tries whether the features may be kept
        runs = count_runs(model)
        found.append((*run_steps(trainer, [rows]), runs[0]))
    (losses, expected, twice), (remembered_losses, gradients, once) = found
    assert remembered_losses == losses
    assert furthest(gradients, expected) < 1e-6  # other graphs are kept, so sums have another order
    calls = sum(map(tower_calls, trainer.data_collator(rows)["micro_batches"]))
    assert once == calls > 2
    assert calls < twice < 2 * calls  # micro-batches that keep their graph run once either way
    assert not any("forward" in vars(layer) for layer in tower_layers(model))


def test_what_does_not_fit_the_budget_runs_twice(root: Path) -> None:
    model, _ = tiny_model()
    for parameter in model.backbone.vision_tower.parameters():
        parameter.requires_grad_(False)
    memory = TowerMemory.of(model, max_bytes=5000)
    pixels = torch.zeros(3, 3, 28, 28)  # 3 x 16 patches x 16 numbers x 4 bytes = 3072 bytes
    runs = count_runs(model)
    for number in range(2):
        with memory.recording(number):
            model.backbone.vision_tower(pixels)
    assert memory.kept_bytes == 3072
    for number in range(2):
        with memory.replaying(number):
            model.backbone.vision_tower(pixels)
    assert runs == [3]
    assert memory.kept_bytes == 0


def test_a_tower_that_is_trained_or_draws_random_numbers_is_not_remembered() -> None:
    model, _ = tiny_model()
    assert not TowerMemory.of(model, 1e9).layers
    for parameter in model.backbone.vision_tower.parameters():
        parameter.requires_grad_(False)
    assert TowerMemory.of(model, 1e9).layers
    assert not TowerMemory.of(model, 0).layers
    model.config.backbone_config.vision_config.attention_dropout = 0.1
    assert not TowerMemory.of(model, 1e9).layers


def test_an_error_leaves_the_layers_as_they_were(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2, freeze=["vision_tower"])
    rows = make_pairs(root, 4)
    trainer.accelerator.backward = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run_steps(trainer, [rows])
    assert not any("forward" in vars(layer) for layer in tower_layers(trainer.model))
