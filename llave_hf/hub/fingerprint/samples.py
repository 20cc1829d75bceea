"""The fixed inputs of a fingerprint: texts, and pictures and a video made by whole-number arithmetic.

Whoever changes one must raise `FORMAT` in `fingerprint.py`: fingerprints that were written before hold other vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One input: a name for reports, a text, and pictures or the frames of a video."""

    name: str
    text: str = ""
    images: tuple[Image.Image, ...] = ()
    frames: tuple[Image.Image, ...] = ()

    @property
    def has_media(self) -> bool:
        return bool(self.images or self.frames)

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """Chat messages, as `apply_chat_template` takes them."""
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in self.images]
        if self.frames:
            parts.append({"type": "video", "video": list(self.frames)})
        if self.text or not parts:
            parts.append({"type": "text", "text": self.text})
        return [{"role": "user", "content": parts}]

    @property
    def columns(self) -> dict[str, Any]:
        """Arguments of a processor, for a batch of this one sample."""
        columns: dict[str, Any] = {"text": [self.text]}
        if self.images:
            columns["images"] = [list(self.images)]
        if self.frames:
            columns["videos"] = [list(self.frames)]
        return columns

    @property
    def entry(self) -> str | dict[str, Any]:
        """One input of `encode`."""
        if not self.has_media:
            return self.text
        entry: dict[str, Any] = {"image": list(self.images)} if self.images else {"video": list(self.frames)}
        return {**entry, "text": self.text} if self.text else entry


def fingerprint_samples() -> list[Sample]:
    """All samples, texts first. Pictures are small, so that a model of 7B parameters takes minutes on a CPU."""
    words = " ".join(f"{number} birds sit on wire {number * 7 % 10}," for number in range(1, 31))
    return [
        Sample("text", "a dog in the snow"),
        Sample("unicode and special tokens", "Füße — 図書館で本を読む 🐕 مرحبا <image> and <|im_end|> are words"),
        Sample("long text", f"Count the birds: {words} and fly away."),
        Sample("square image", images=(_gradient(64, 64),)),
        Sample("wide image", images=(_checker(420, 140, 12),)),  # wide and large enough for a grid of several tiles
        Sample("tall image and text", "What is in the image?", images=(_gradient(60, 100),)),
        Sample("two images", "Which differs?", images=(_checker(48, 48, 5), _gradient(64, 40))),
        Sample("video", "A clip.", frames=tuple(_gradient(56, 42, shift=40 * number) for number in range(4))),
    ]


# Names of those of which a large model on a CPU makes vectors, where nobody asks for all: the texts, a picture with a
# text, and a video. The others show little more and take most of the time.
FEW = ("text", "unicode and special tokens", "long text", "tall image and text", "video")
LARGE = 200_000_000  # parameters


def affordable(parameters: int, device: str, *, thorough: bool = False) -> list[Sample]:
    """The samples that go through a model of so many parameters on a device; all of them if `thorough`."""
    few = parameters >= LARGE and device == "cpu" and not thorough
    return [sample for sample in fingerprint_samples() if not few or sample.name in FEW]


def _gradient(width: int, height: int, *, shift: int = 0) -> Image.Image:
    """Red grows to the right, green downwards, blue in diagonal waves; `shift` moves the waves."""
    rows, columns = np.indices((height, width))
    blue = ((rows + columns) * 5 + shift) % 256
    return _image(columns * 255 // (width - 1), rows * 255 // (height - 1), blue)


def _checker(width: int, height: int, side: int) -> Image.Image:
    """Fields of `side` pixels, bright and dark, each row of fields of another shade."""
    rows, columns = np.indices((height, width))
    bright = (rows // side + columns // side) % 2
    return _image(bright * 230 + 10, bright * 100 + rows // side * 37 % 150, 255 - bright * 200)


def _image(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack((red, green, blue), axis=-1).astype(np.uint8))
