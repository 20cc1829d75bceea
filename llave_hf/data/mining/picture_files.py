"""Pictures that stand inside tables, written as files that lines of JSON can name."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from llave_hf.data.stored.pictures import StoredPicture, content_digest, decoded
from llave_hf.model.media_llave import IMAGE_SUFFIXES

from .names import PICTURES_FOLDER


class PictureFiles:
    """Writes each distinct picture once, named by its bytes.

    Args:
        root: The folder that paths are relative to; files lie in `root/pictures`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: dict[StoredPicture, str] = {}

    def path(self, entry: str) -> str:
        """The path of an entry of a column of paths: its own, or that of the file which now holds its picture.

        Raises:
            MediaError: The picture cannot be read.
            OSError: The file cannot be written.
        """
        picture = decoded(entry)
        if isinstance(picture, str):
            return picture
        if picture not in self._written:
            self._written[picture] = self._write(picture.read())
        return self._written[picture]

    def _write(self, content: bytes) -> str:
        digest = content_digest(content)
        path = f"{PICTURES_FOLDER}/{digest[:2]}/{digest}{_suffix(content)}"
        file = self._root / path
        if not file.exists():  # a run that was stopped has written some
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_name(f"{file.name}.tmp")
            unfinished.write_bytes(content)
            unfinished.rename(file)
        return path


def _suffix(content: bytes) -> str:
    """Of the picture's format; nothing where no suffix that is read means it."""
    with Image.open(io.BytesIO(content)) as picture:
        suffix = f".{(picture.format or '').lower()}"
    return suffix if suffix in IMAGE_SUFFIXES else ""
