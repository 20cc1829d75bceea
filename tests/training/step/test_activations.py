"""What autograd keeps of a forward is nearly what is planned for, with each backbone and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import backbones
import pytest
import torch
from backbones import KINDS, save_backbone
from step_helpers import is_copy, make_pairs, trainer_of, write_media

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.from_scratch import build_from_scratch
from llave_hf.checkpoints.initialisation import init_from_backbone
from llave_hf.training.recipe.tuning import STACKS
from llave_hf.training.step.activations import cast_bytes
from llave_hf.training.step.graph_memory import GraphMemory
from llave_hf.training.trainer import LlaveTrainer

# In the proportions of real models: a tiny model's norms weigh more.
VISION = {
    "hidden_size": 64,
    "intermediate_size": 240,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 340,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "autocast": {"bf16": True},
    "bfloat16 weights": {"bf16": True, "master_weights": "bfloat16"},
}
NEARLY = 0.15  # what is told apart: without the norms' float32 copies, autocast would be 0.7 of what is kept


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


@pytest.mark.parametrize("frozen", [False, True], ids=["trained tower", "frozen tower"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sizes_are_nearly_what_autograd_keeps(root: Path, precision: str, frozen: bool) -> None:
    model, processor = build_from_scratch(
        ["a dog in the snow"],
        vocab_size=320,
        vision_config=VISION,
        text_config=TEXT,
        processor={"image_tiling": "none"},
    )
    changes = {"freeze": ["vision_tower"]} if frozen else {}
    trainer = trainer_of(model.train(), processor, root, **PRECISIONS[precision], **changes)
    compare(trainer, root, tower=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("llava_onevision", "qwen3_5")])
def test_of_other_backbones(root: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the language model: what the small towers' mergers and embeddings of patches keep is not counted."""
    monkeypatch.setitem(backbones._TEXT, "num_hidden_layers", 8)  # what stands around layers weighs less then
    init_from_backbone(save_backbone(tmp_path / "backbone", kind, wider=4), tmp_path / "model")
    processor = LlaveProcessor.from_pretrained(tmp_path / "model")
    for precision in PRECISIONS.values():
        model = LlaveModel.from_pretrained(tmp_path / "model").float().train()
        compare(trainer_of(model, processor, root, **precision), root, tower=False)


def compare(trainer: LlaveTrainer, root: Path, *, tower: bool) -> None:
    model, args = trainer.model, trainer.args
    memory = GraphMemory(model.config, args, tower_runs_twice=True)
    batch = trainer.data_collator(make_pairs(root, 12, kinds=("text", "image")))["micro_batches"]
    assert len(batch) == 2
    for micro_batch in batch if tower else batch[:1]:
        assert tower or "pixel_values" not in micro_batch
        kept, casts = kept_bytes(trainer, trainer.model_input(micro_batch))
        assert kept == pytest.approx(memory.size(micro_batch), rel=NEARLY)
        parts = STACKS if "pixel_values" in micro_batch else ("language_model",)
        assert casts == pytest.approx(cast_bytes(model, args, parts), rel=0.02)  # and the projector's


def kept_bytes(trainer: LlaveTrainer, micro_batch: dict[str, Any]) -> tuple[int, int]:
    """Bytes that a graph keeps, without weights: of activations, and of autocast's copies of weights."""
    model = trainer.model
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), trainer.accelerator.autocast():
        embeddings = model(micro_batches=[micro_batch]).embeddings
        copies = {place for place, tensor in kept.items() if is_copy(tensor, model)}
    assert embeddings.requires_grad
    sizes = {place: tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights}
    return sum(size for place, size in sizes.items() if place not in copies), sum(sizes[place] for place in copies)
