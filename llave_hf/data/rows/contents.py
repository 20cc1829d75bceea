"""Rows as numbers, in Arrow and NumPy: equal content gets equal numbers, lengths in tokens are estimated."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.samples import MARK_PATTERN

from .columns import SideColumns

BYTES_PER_TOKEN = 4
TOKENS_PER_PROMPT = 20
TOKENS_PER_IMAGE = 1500  # one to five tiles of 729, by the picture's shape
TOKENS_PER_VIDEO = 32 * 196

# RE2's \s is ASCII without \v; Python's, which `strip_marks` uses, is Unicode's.
_MARKS = rf"{MARK_PATTERN}(?:[\s\v\x1c-\x1f\x{{85}}\p{{Z}}]*{MARK_PATTERN})*"
_SEPARATOR = pa.scalar("\0", pa.large_string())  # no path that can be opened holds it


def content_codes(sides: Sequence[tuple[SideColumns, str | None]]) -> np.ndarray:
    """Numbers that are equal where entries have the same text without marks, the same paths and the same media root.

    They say no less than `Sample.key()`: samples that are equal have equal numbers. Where an entry has no media, its
    root does not matter: "yes" is "yes" in every source.

    Args:
        sides: Queries, or documents, of several tasks, each with its media root.

    Returns:
        `(rows of all sides,)` int64, from 0.
    """
    texts = _encode([plain_texts(side) for side, _ in sides])
    media = _encode([_media(side, root) for side, root in sides])
    return np.unique(texts * (media.max(initial=0) + 1) + media, return_inverse=True)[1].astype(np.int64)


def plain_texts(side: SideColumns) -> pa.Array:
    """Texts without the marks of pictures, as samples have them: large_string, `(n,)`."""
    return pc.replace_substring_regex(side.text, _MARKS, "")


def token_estimates(side: SideColumns) -> np.ndarray:
    """Visual and text tokens of each entry, roughly: `(n,)` int64. No file is opened."""
    text = pc.binary_length(side.text).to_numpy(zero_copy_only=False) // BYTES_PER_TOKEN
    images = pc.list_value_length(side.images).to_numpy(zero_copy_only=False)
    videos = pc.not_equal(side.video, "").to_numpy(zero_copy_only=False)
    return TOKENS_PER_PROMPT + text + TOKENS_PER_IMAGE * images + TOKENS_PER_VIDEO * videos


def _media(side: SideColumns, root: str | None) -> pa.Array:
    images = pc.binary_join(side.images, _SEPARATOR)
    # A video counts alike in its own column and, as MMEB has it, among the pictures.
    paths = pc.utf8_trim(pc.binary_join_element_wise(images, side.video, _SEPARATOR), _SEPARATOR.as_py())
    prefix = pa.scalar("" if root is None else os.path.normpath(root), pa.large_string())
    rooted = pc.binary_join_element_wise(prefix, paths, _SEPARATOR)
    return pc.if_else(pc.equal(paths, ""), paths, rooted)


def _encode(arrays: Sequence[pa.Array]) -> np.ndarray:
    if not arrays:
        return np.zeros(0, dtype=np.int64)
    indices = pa.concat_arrays(arrays).dictionary_encode().indices
    return indices.to_numpy(zero_copy_only=False).astype(np.int64)
