"""A stand-in for a model, and folders to index."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from helpers import picture, write_video
from PIL import Image

from llave_hf.model.media_llave import load_frames, load_image

DIMENSION = 16
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


class ColourEncoder:
    """Texts that name a colour lie where pictures of it do; other inputs lie where their content says.

    `calls` holds all inputs that were encoded.
    """

    prompts: Mapping[str, str] = {}

    def __init__(self, seed: int = 0) -> None:
        self.calls: list[Any] = []
        self._axes = np.random.default_rng(seed).standard_normal((DIMENSION, DIMENSION))

    def encode(self, inputs: list[Any], show_progress_bar: bool = False) -> np.ndarray:
        vectors = []
        for place, entry in enumerate(inputs):
            try:
                vectors.append(self._vector(entry))
            except ValueError as error:
                raise ValueError(f"input {place}: {error}") from error
        self.calls += inputs
        return np.stack(vectors).astype(np.float32)

    @property
    def files(self) -> list[str]:
        """The names of the pictures and videos that were encoded, without probes."""
        found = [next(iter(entry.values())) for entry in self.calls if isinstance(entry, Mapping)]
        return [Path(path).name for path in found if isinstance(path, str)]

    def _vector(self, entry: Any) -> np.ndarray:
        weights = np.full(DIMENSION, 0.01)
        if isinstance(entry, str):
            for number, name in enumerate(COLOURS):
                weights[number] += name in entry
            weights[3:6] += (
                0.05 * np.frombuffer(hashlib.blake2b(entry.encode(), digest_size=3).digest(), np.uint8) / 255
            )
        else:
            frame = load_image(entry["image"]) if "image" in entry else load_frames(entry["video"], num_frames=1)[0]
            weights[:3] += np.asarray(frame.convert("RGB"), dtype=float).mean((0, 1)) / 255
        return weights @ self._axes


def flat(path: Path, colour: str, size: int = 20) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), COLOURS[colour]).save(path)
    return path


def write_folder(root: Path) -> Path:
    """Three pictures, a video, a text with two passages, a broken picture and files that are no candidates."""
    flat(root / "red.png", "red")
    flat(root / "it's/green.png", "green")
    flat(root / "it's/deep/blue.jpg", "blue")
    write_video(root / "grey.mp4", [100] * 3)
    (root / "notes.md").write_text("The red house.\n" * 40 + "\n" + "The green wood.\n" * 60, encoding="utf-8")
    (root / "broken.png").write_bytes(b"no picture")
    (root / "data.json").write_text("{}")
    (root / ".hidden").mkdir()
    picture().save(root / ".hidden/secret.png")
    return root
