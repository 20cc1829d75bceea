"""Small models and inputs that tests share."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.from_scratch import build_from_scratch

TEXTS = (
    "a dog in the snow",
    "\nRepresent the given image.\n",
    "What is in the image?",
    "Find an image that matches the given caption: a small red circle left of a blue square",
)


def results_script(name: str) -> ModuleType:
    """A script of recipes/results, which is no package, as a module."""
    path = Path(__file__).parents[1] / "recipes" / "results" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def tiny_model(
    *, seed: int = 0, image_size: int = 28, patch_size: int = 7, processor: dict[str, Any] | None = None
) -> tuple[LlaveModel, LlaveProcessor]:
    """A LLaVA-OneVision-shaped model of some ten thousand parameters, in evaluation mode, and its processor."""
    model, made = build_from_scratch(
        TEXTS,
        vocab_size=320,
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": image_size,
            "patch_size": patch_size,
        },
        text_config={
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        processor=processor,
        seed=seed,
    )
    return model.eval(), made


def spoil(model: LlaveModel, processor: LlaveProcessor, letter: str) -> None:
    """Every text with this letter has a vector that is not finite from now on, as from weights that overflowed."""
    (token,) = processor.tokenizer(letter, add_special_tokens=False)["input_ids"]
    model.get_input_embeddings().weight.data[token] = float("nan")


def checkpoint_activations(model: LlaveModel, *, on: bool = True) -> None:
    """By the name that transformers has for it: 5.23 deprecates the only one of earlier releases."""
    end = "enable" if on else "disable"
    name = f"activation_checkpointing_{end}"
    getattr(model, name if hasattr(model, name) else f"gradient_checkpointing_{end}")()


def picture(width: int = 40, height: int = 30, *, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture of coloured noise in any mode."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pictures(sizes: Sequence[tuple[int, int]], *, seed: int = 0) -> list[Image.Image]:
    return [picture(width, height, seed=seed + index) for index, (width, height) in enumerate(sizes)]


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Figures are made, and saved as one white pixel: laying them out takes most of a drawing's time."""

    def save(figure: Any, path: Path, **_: Any) -> None:
        Image.new("RGB", (1, 1), "white").save(path, "PNG")

    patch.setattr("matplotlib.figure.Figure.savefig", save)


def write_video(path: Path, levels: Iterable[int], *, size: tuple[int, int] = (32, 24), codec: str = "mpeg4") -> Path:
    """A video of 10 frames a second, each one flat grey of the given level."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for level in levels:
            pixels = np.full((size[1], size[0], 3), level, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def hub_snapshot(root: Path, files: Mapping[str, bytes], repository: str = "datasets--me--pictures") -> Path:
    """A data set as the Hub's cache holds it: a snapshot of links to blobs."""
    snapshot = root / "hub" / repository / "snapshots" / ("01" * 20)
    blobs = root / "hub" / repository / "blobs"
    blobs.mkdir(parents=True)
    for number, (name, content) in enumerate(files.items()):
        (blobs / f"{number:040x}").write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{number:040x}", link.parent))
    return snapshot


def write_training_data(root: Path, *, tasks: Sequence[str] = ("Caption", "Question"), rows: int = 24) -> Path:
    """A folder in MMEB's layout under `root`: `train/<task>/rows.jsonl` and `images/*.png`, all rows distinct."""
    (root / "images").mkdir(parents=True)
    for number in range(rows):
        picture(20 + number % 5, 24, seed=number).save(root / "images" / f"{number}.png")
    for task in tasks:
        (root / "train" / task).mkdir(parents=True)
        lines = []
        for number in range(rows):
            caption, image = f"{task} number {number}", f"images/{number}.png"
            row = {
                "qry": f"Find: {caption}\n",
                "qry_image_path": "",
                "pos_text": "<|image_1|>\n",
                "pos_image_path": image,
            }
            if task == "Question":
                row = {
                    "qry": f"<|image_1|>\n{task}?\n",
                    "qry_image_path": image,
                    "pos_text": caption,
                    "pos_image_path": "",
                }
            lines.append(json.dumps(row))
        (root / "train" / task / "original.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_recipe(root: Path, **changes: Any) -> Path:
    """A recipe that trains a model of some ten thousand parameters on `write_training_data`'s rows, on the CPU."""
    recipe: dict[str, Any] = {
        "output_dir": str(root / "out"),
        "from_scratch": {
            "vocab_size": 320,
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 7,
            },
            "text_config": {
                "hidden_size": 24,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            },
        },
        "processor": {"image_tiling": "none"},
        "train_data": str(root / "train"),
        "media_root": str(root),
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "temperature": 0.1,
        "hardness_strength": 1.0,
        "logging_steps": 1,
        "save_steps": 3,
        "report_to": "none",
        "disable_tqdm": True,
        **changes,
    }
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path
