"""SERVING.md: the command keeps out what an engine would see otherwise, and the page says where stock code differs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from backbones import save_backbone
from helpers import tiny_model

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.stock.serving import differences, serving_command, write_serving_page

SEVERAL = "Several pictures in one input: "


@pytest.mark.parametrize(
    ("processor", "newline", "limits", "told"),
    [
        ({}, "one_token", None, [f"{SEVERAL}transformers and sentence-transformers pad"]),
        ({"image_tiling": "anyres_single"}, "one_token", '{"image": 1}', [f"{SEVERAL}vLLM tiles each"]),
        ({}, "grid", '{"video": 0}', ["newline after the last frame, this model `grid`"]),
        ({"backend": "torchvision"}, "one_token", None, []),
    ],
)
def test_what_an_engine_would_see_otherwise_is_kept_out(
    processor: dict[str, Any], newline: str, limits: str | None, told: list[str], tmp_path: Path
) -> None:
    model, made = tiny_model(processor={**processor, "max_length": 2048})
    model.config.video_newline = newline
    words = shlex.split(serving_command(tmp_path, model, made))
    assert words[:7] == ["vllm", "serve", str(tmp_path), "--runner", "pooling", "--dtype", "float32"]
    assert words[words.index("--max-model-len") + 1] == "2048"
    assert (words[words.index("--limit-mm-per-prompt") + 1] if "--limit-mm-per-prompt" in words else None) == limits
    text = "\n".join(differences(model.config, made))
    for part in told:
        assert part in text
    assert ("resized with torchvision" in text) is (made.backend == "pil")


def test_the_page_names_the_command_and_the_dimensions(tmp_path: Path) -> None:
    model, processor = tiny_model()
    folder = tmp_path / "a folder"
    folder.mkdir()
    write_serving_page(folder, model, processor)
    page = (folder / "SERVING.md").read_text(encoding="utf-8")
    assert f"vllm serve '{folder}' --runner pooling" in page
    assert (
        "| `dimensions` | refused: the model was not trained to have its vectors cut; they have 24 numbers |" in page
    )
    model.config.matryoshka_dimensions = [24, 8]
    write_serving_page(folder, model, processor, ["a table", "  of costs"])
    page = (folder / "SERVING.md").read_text(encoding="utf-8")
    assert "| `dimensions` | right for 24, 8, which the model was trained for |" in page
    assert "```\na table\n  of costs\n```" in page
    assert "{{" not in page
    assert "{%" not in page


@pytest.mark.parametrize(("kind", "timed"), [("qwen2_vl", False), ("qwen3_vl", True)])
def test_what_differs_in_videos_is_named_and_kept_out(kind: str, timed: bool, tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", kind)
    model, processor = LlaveModel.from_backbone(backbone), LlaveProcessor.from_backbone(backbone)
    assert any("24 a second" in line for line in differences(model.config, processor)) is timed
    # The tiny Qwen3-VL has CLIP's mean for pictures and another for videos.
    assert any("normalises them" in line for line in differences(model.config, processor)) is timed
    assert ("--limit-mm-per-prompt" in serving_command(tmp_path, model, processor)) is timed
