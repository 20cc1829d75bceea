"""What one request, and all of them together, may ask of the server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llave_hf.errors import UserError

MIB = 1 << 20
CHARACTERS_PER_TOKEN = 32  # more are in a token only of white space and the like; cheaper to count than tokens
BODIES_AT_ONCE = 8  # of the largest size
CLIP_TIMES_PIXELS = 32  # the pixels of all frames of a clip, by those of a picture
_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": MIB, "gb": 1 << 30}


@dataclass(frozen=True)
class Limits:
    """Everything is refused beyond these, with the number in the message.

    Attributes:
        body: Bytes of a request.
        inputs: Inputs of a request.
        pictures: Pictures of an input.
        pixels: Of all pictures of an input together, or of the frames of a clip that are looked at.
        queue: Inputs of all requests that wait or are being worked on.
        body_seconds: For which a body may take to arrive.
        marks: Brackets and commas of a body: what its JSON takes in memory.
    """

    body: int = 32 * MIB
    inputs: int = 2048
    pictures: int = 16
    pixels: int = 1 << 26
    queue: int = 4096
    body_seconds: float = 60.0
    marks: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("body", "inputs", "pictures", "pixels", "queue"):
            if getattr(self, name) < 1:
                raise UserError(f"--max_{name} is {getattr(self, name)}; give a positive number.")
        if self.queue < self.inputs:
            raise UserError(
                f"--max_queue is {self.queue}, and a request may have {self.inputs} inputs (--max_inputs): it would "
                "never be taken. Lower the second, or raise the first."
            )

    @property
    def bodies(self) -> int:
        """Bytes of all requests that are not answered yet."""
        return self.body * BODIES_AT_ONCE

    @property
    def clip_pixels(self) -> int:
        """Of all frames of a clip's file, which are decoded to find those that are looked at."""
        return self.pixels * CLIP_TIMES_PIXELS


def parse_size(text: str) -> int:
    """Bytes of `20mb`, `512kb` or a plain number; raises [`UserError`]."""
    found = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", text.lower())
    if not found or found[2] not in _UNITS:
        raise UserError(f"{text!r} is no size; write a number of bytes, or 512kb, 20mb, 1gb.")
    return int(found[1]) * _UNITS[found[2]]
