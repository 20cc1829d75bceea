"""What makes two inputs the same: their content, not the objects or the names of the files that hold it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from llave_hf.model.media_pictures_llave import PILLOW_ERRORS, as_sequence, load_image, medium_of, rewinds

_DIGEST_BYTES = 16
_READ_BYTES = 1 << 20


class ContentKeys:
    """Gives inputs keys that are equal exactly where the inputs have the same content.

    Texts are compared as they are; pictures by a digest of their pixels, turned as they are shown; arrays, bytes and
    file objects by a digest; files by their bytes, which hold the orientation: only files of equal length are read.
    An instance remembers the files it has seen, so use one for one list of inputs.
    """

    def __init__(self) -> None:
        self._first_of_size: dict[int, str] = {}
        self._by_digest: dict[tuple[int, bytes], str] = {}
        self._by_path: dict[str, str] = {}

    def key(self, entry: Any) -> Hashable:
        """The key of an input of `encode`: a text, path, picture, array, or a mapping or list of these.

        Objects of a kind that is not known here are only equal to themselves.
        """
        if isinstance(entry, (str, os.PathLike)):
            return "text", self._same_file(os.fsdecode(entry))
        if isinstance(entry, Mapping):
            if entry.get("bytes") is not None and set(entry) <= {"bytes", "path"}:
                return self.key(entry["bytes"])  # the path is a mere name
            return "mapping", frozenset((name, self.key(value)) for name, value in entry.items())
        if entry is None or isinstance(entry, (bool, int, float)):
            return type(entry).__name__, entry
        try:
            return self._key_of_object(entry)
        except (*PILLOW_ERRORS, RuntimeError):  # whoever opens it says better what is wrong
            return "object", id(entry)

    def _key_of_object(self, entry: Any) -> Hashable:
        if isinstance(entry, Image.Image):
            if getattr(entry, "is_animated", False):  # its other frames may differ
                entry.load()  # here, as threads may share it
                return "object", id(entry)
            shown = load_image(entry)
            palette = shown.getpalette() if shown.mode in ("P", "PA") else None
            transparency = repr(shown.info.get("transparency"))
            return "picture", shown.mode, shown.size, _digest(shown.tobytes()), str(palette), transparency
        if (several := as_sequence(entry)) is not None:
            return "list", tuple(self.key(value) for value in several), tuple(getattr(entry, "seconds", None) or ())
        if isinstance(entry, torch.Tensor):
            values = entry.detach().cpu().contiguous()
            return "array", str(values.dtype), tuple(values.shape), _digest(values.view(torch.uint8).numpy())
        if isinstance(entry, np.ndarray):
            return "array", entry.dtype.str, entry.shape, _digest(np.ascontiguousarray(entry).view(np.uint8))
        medium = medium_of(entry) if rewinds(entry) else None
        return ("object", id(entry)) if medium is None else ("bytes", _digest(medium.content))

    def _same_file(self, text: str) -> str:
        """The name under which a file with these bytes was first seen; whatever names no file stays as it is."""
        if text not in self._by_path:
            self._by_path[text] = self._first_name(text) if _may_be_path(text) else text
        return self._by_path[text]

    def _first_name(self, path: str) -> str:
        try:
            if not os.path.isfile(path):
                return path
            size = os.stat(path).st_size
            first = self._first_of_size.setdefault(size, path)
            if first == path:
                return path
            self._by_digest.setdefault((size, file_digest(first)), first)
            return self._by_digest.setdefault((size, file_digest(path)), path)
        except OSError:  # whoever opens it says better what is wrong
            return path


def _may_be_path(text: str) -> bool:
    return len(text) < 4096 and "\n" not in text and "\0" not in text and "." in text[-6:]


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def file_digest(path: str | os.PathLike[str], salt: bytes = b"") -> bytes:
    """A digest of `salt` and a file's bytes."""
    digest = hashlib.blake2b(salt, digest_size=_DIGEST_BYTES)
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.digest()
