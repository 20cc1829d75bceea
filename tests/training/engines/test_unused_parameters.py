"""DistributedDataParallel searches for unused parameters exactly where there can be some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backbones import KINDS, save_backbone
from helpers import picture, tiny_model, write_recipe, write_training_data, write_video

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.data.pairs import load_pairs
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.trainer import LlaveTrainer
from llave_hf.training.tuning.parts import freeze_parts


@pytest.mark.parametrize("medium", ["image", "video"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_or_a_video_uses_every_trained_parameter(kind: str, medium: str, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "backbone", kind)
    model, processor = LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder)
    freeze_parts(model, ())
    frames = write_video(tmp_path / "video.mp4", range(0, 160, 20))
    shown = {"images": [picture()]} if medium == "image" else {"videos": [frames]}
    model(**processor(text=["x"], **shown)).embeddings[:, 0].sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "pictures in each pair": ({}, False),
    "gradient caching": ({"mini_batch_size": 4}, True),
    "bad samples left out": ({"on_bad_sample": "skip"}, True),
    "frozen": ({"freeze": ["vision_tower", "projector"], "mini_batch_size": 4}, False),
    "adapters": ({"lora": {"r": 2}, "freeze": ["projector"], "mini_batch_size": 4}, False),
    "as the recipe says": ({"ddp_find_unused_parameters": True}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_the_search_is_on_where_it_has_to_be(case: str, tmp_path: Path) -> None:
    settings, expected = CASES[case]
    assert _searches(write_training_data(tmp_path), **settings) is expected


def test_one_pair_of_texts_turns_it_on(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    with (root / "train" / "Caption" / "original.jsonl").open("a") as rows:
        rows.write('{"qry": "a", "qry_image_path": "", "pos_text": "b", "pos_image_path": ""}\n')
    assert _searches(root)


def test_videos_that_leave_the_newline_out_turn_it_on(tmp_path: Path) -> None:
    model, processor = tiny_model(processor={"video_newline": "no_token"})
    assert _searches(write_training_data(tmp_path), (model, processor))


def _searches(root: Path, parts: tuple[LlaveModel, LlaveProcessor] | None = None, **settings: Any) -> bool:
    recipe = load_recipe(write_recipe(root, **settings))
    data = load_pairs(recipe.data.train_data, media_root=recipe.data.media_root)
    model, processor = parts or tiny_model()
    trainer = LlaveTrainer(model, recipe.training, data, processing_class=processor)
    return trainer.accelerator.ddp_handler.find_unused_parameters
