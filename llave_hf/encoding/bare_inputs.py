"""Pictures and clips that are given to `encode` as they are, without saying which they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image

from llave_hf.model.media_llave import VIDEO_SUFFIXES, Clip
from llave_hf.model.media_pictures_llave import as_sequence


def is_medium(entry: Any) -> bool:
    """Whether an input is bytes, a file object, a `Path` or the Hub's `{"bytes", "path"}`."""
    if isinstance(entry, Mapping):
        return bool(entry) and set(entry) <= {"bytes", "path"}
    if isinstance(entry, (bytes, bytearray, memoryview, os.PathLike)):
        return True
    return callable(getattr(entry, "read", None)) and not isinstance(entry, type)


def is_clip(entry: Any) -> bool:
    """Whether an input that is neither text nor a mapping of kinds is a video: by its suffix or its dimensions.

    A `.gif` is a picture here, as everywhere where it may be either.
    """
    if isinstance(entry, Clip) or (isinstance(entry, (np.ndarray, torch.Tensor)) and entry.ndim == 4):
        return True
    path = entry.get("path") if isinstance(entry, Mapping) else entry
    if not isinstance(path, (str, os.PathLike)):
        return False
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    return suffix in VIDEO_SUFFIXES - {".gif"} or os.path.isdir(path)


class _Whole(Sequence[Image.Image]):
    """A clip that sentence-transformers passes on as it is; of a list it would keep the frames without their times."""

    def __init__(self, clip: Clip) -> None:
        self._clip, self.seconds = clip, clip.seconds

    def __getitem__(self, place: Any) -> Any:
        return self._clip[place]

    def __len__(self) -> int:
        return len(self._clip)


def for_sentence_transformers(entry: Any) -> Any:
    """An input in a form whose kind sentence-transformers knows; what it knows already stays as it is."""
    if is_medium(entry) or isinstance(entry, Clip):
        entry = {"video" if is_clip(entry) else "image": entry}
    if not isinstance(entry, Mapping) or "role" in entry:
        return entry
    return {kind: _value(kind, value) for kind, value in entry.items()}


def _value(kind: str, value: Any) -> Any:
    if kind == "video" and isinstance(value, Clip) and value.seconds is not None:
        return _Whole(value)
    if kind == "video" and isinstance(value, dict) and is_medium(value):
        return MappingProxyType(value)  # a plain dictionary would have to hold an array of frames
    several = as_sequence(value) if kind in ("image", "video") else None
    return value if several is None else several
