"""Pictures inside tables and archives, as the Hub and WebDataset have them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

HUB_PICTURES = datasets.Image()


def picture_bytes(seed: int, *, side: int = 12, kind: str = "PNG") -> bytes:
    """A picture whose bytes depend on the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def hub_rows(columns: dict[str, list[Any]], pictures: Sequence[str]) -> datasets.Dataset:
    """Rows whose `pictures` are columns of the Hub's pictures, the others texts or lists of texts."""
    features: dict[str, Any] = {}
    for name, values in columns.items():
        kind: Any = HUB_PICTURES if name in pictures else datasets.Value("string")
        features[name] = datasets.List(kind) if isinstance(values[0], list) else kind
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def stored(seed: int, path: str | None = None) -> dict[str, Any]:
    """A picture as a table holds it."""
    return {"bytes": picture_bytes(seed), "path": path}


def write_archive(path: Path, samples: Iterable[tuple[str, dict[str, bytes | str | dict[str, Any]]]]) -> Path:
    """A shard of tar: members by key and suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, members in samples:
            for suffix, value in members.items():
                content = json.dumps(value) if isinstance(value, dict) else value
                content = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path
