"""Stores pictures that come as bytes inside tables: as files named by content, so that everything after has paths.

They lie in `llave_hf/pictures` of the Hugging Face cache (`HF_HOME`), each once, however many benchmarks have it, and
may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants

SIGNATURES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    **{b"P%d" % number: ".ppm" for number in range(1, 7)},
}
BRANDS = {b"ftypavif": ".avif", b"ftypavis": ".avif", b"ftypheic": ".heic", b"ftypheix": ".heic"}  # after four bytes


class PictureError(ValueError):
    """Bytes that are no picture, or none at all."""


def picture_folder() -> Path:
    """Where the pictures lie."""
    return Path(constants.HF_HOME) / "llave_hf" / "pictures"


def is_picture(value: Any) -> bool:
    """Whether a table's value is a picture: bytes, or the Hub's structure of `bytes` and `path`."""
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= {"bytes", "path"}
    return isinstance(value, (bytes, bytearray, memoryview))


def store_picture(value: Any) -> tuple[str, bool]:
    """Keep the bytes as a file.

    Returns:
        A path and whether it is relative to `picture_folder()`; a structure without bytes has a path of its own.

    Raises:
        PictureError: there are neither bytes nor path, or the bytes are no picture.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
    if content is None and path:
        return str(path), False
    content = bytes(content or b"")
    if not content:
        raise PictureError("the picture has neither bytes nor a path: complete the data.")
    known = (suffix for start, suffix in SIGNATURES.items() if content.startswith(start))
    suffix = next(known, BRANDS.get(content[4:12]))
    if suffix is None:
        raise PictureError(f"the bytes begin with {content[:8]!r}: give PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or AVIF.")
    name = hashlib.sha256(content).hexdigest() + suffix
    path = picture_folder() / name[:2] / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # other processes do the same
            file.write(content)
        os.replace(file.name, path)
    return f"{name[:2]}/{name}", True
