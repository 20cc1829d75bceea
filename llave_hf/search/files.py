"""A file that is indexed: its kind, and what is equal for two of the same content."""

from __future__ import annotations

from pathlib import Path

from llave_hf.data.media_files import TEXT_SUFFIXES
from llave_hf.encoding.content_keys import file_digest
from llave_hf.model.media_llave import IMAGE_SUFFIXES
from llave_hf.model.media_pictures_llave import PILLOW_ERRORS, MediaError, Medium, open_picture

ANIMATED_SUFFIXES = frozenset({".gif", ".webp", ".png", ".avif"})
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
KINDS = ("text", "image", "video")


def kind_of(path: Path) -> str:
    """`text`, `image` or `video`; a `.gif`, `.webp`, `.png` or `.avif` is a video where it moves.

    What cannot be opened is taken for a picture, and said to be broken by whoever opens it.
    """
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return "text"
    if suffix in ANIMATED_SUFFIXES:
        try:
            with open_picture(Medium(str(path), path=str(path))) as picture:
                moves = picture.format in ANIMATED_FORMATS and getattr(picture, "is_animated", False)
        except (MediaError, *PILLOW_ERRORS):
            return "image"
        return "video" if moves else "image"
    return "image" if suffix in IMAGE_SUFFIXES else "video"


def digest_of(path: Path) -> str:
    """What is equal for two files of the same content that are opened the same way."""
    suffix = path.suffix.lower()
    way = "text" if suffix in TEXT_SUFFIXES else "gif" if suffix == ".gif" else "media"
    return file_digest(path, way.encode()).hex()
