"""From a server's answer to its vectors: how many, in which order, of which numbers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np


class BrokenAnswer(ValueError):
    """An answer that is no vectors; the message says what it is instead."""


def openai_vectors(content: Any, count: int) -> np.ndarray:
    """`{"data": [{"index", "embedding"}]}` to `(count, D)` float64, placed by `index`.

    Raises:
        BrokenAnswer: It has another form, other inputs' numbers, or numbers that are not finite.
    """
    data = content.get("data") if isinstance(content, Mapping) else None
    if not isinstance(data, list) or not all(isinstance(entry, Mapping) for entry in data):
        raise BrokenAnswer(f"the answer has no list `data` of objects, as OpenAI's has: {_shown(content)}")
    _check_count(len(data), count)
    places = [entry.get("index") for entry in data]
    if sorted(places, key=str) != sorted(range(count), key=str):
        raise BrokenAnswer(f"`index` of the {count} vectors is {places}, where each number below {count} must be once")
    rows = [_numbers(entry.get("embedding"), place) for place, entry in enumerate(data)]
    return _stacked([rows[places.index(place)] for place in range(count)])


def cohere_vectors(content: Any, count: int) -> np.ndarray:
    """`{"embeddings": {"float": [[...]]}}` to `(count, D)` float64; raises as [`openai_vectors`]."""
    embeddings = content.get("embeddings") if isinstance(content, Mapping) else None
    data = embeddings.get("float") if isinstance(embeddings, Mapping) else embeddings
    if not isinstance(data, list):
        raise BrokenAnswer(f"the answer has no list `embeddings.float`, as Cohere's has: {_shown(content)}")
    _check_count(len(data), count)
    return _stacked([_numbers(entry, place) for place, entry in enumerate(data)])


def _check_count(found: int, count: int) -> None:
    if found != count:
        raise BrokenAnswer(f"{found} vectors for {count} input{'' if count == 1 else 's'}")


def _numbers(value: Any, place: int) -> np.ndarray:
    """One vector, as numbers or as base64 of little-endian float32."""
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float64)
        vector = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, binascii.Error) as error:
        raise BrokenAnswer(f"vector {place} is no list of numbers: {_shown(value)}") from error
    if vector.ndim != 1 or vector.size == 0:
        raise BrokenAnswer(f"vector {place} is no list of numbers: {_shown(value)}")
    return vector


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    widths = sorted({row.size for row in rows})
    if len(widths) > 1:
        raise BrokenAnswer(f"vectors of different widths: {', '.join(map(str, widths))}")
    vectors = np.stack(rows)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if broken.size:
        raise BrokenAnswer(f"vector {broken[0]} holds NaN or infinity (or null)")
    if not np.linalg.norm(vectors, axis=1).all():
        raise BrokenAnswer("a vector is all zeros")
    return vectors


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
