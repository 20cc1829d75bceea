"""A small folder of pictures, and rows that name them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmeb_rows import COLOURS, Row
from PIL import Image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A media root: images/red.png, ... and video/clip/0.png, ..., 2.png, 10.png."""
    (tmp_path / "images").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (12, 10), colour).save(tmp_path / "images" / f"{colour}.png")
    (tmp_path / "video" / "clip").mkdir(parents=True)
    for number, colour in zip((0, 1, 2, 10), COLOURS, strict=True):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "video" / "clip" / f"{number}.png")
    return tmp_path


@pytest.fixture
def write(root: Path) -> Callable[..., str]:
    """Writes rows to a parquet file in the media root and returns its path."""

    def write_rows(table: list[Row] | pa.Table, name: str = "task.parquet") -> str:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table if isinstance(table, pa.Table) else pa.Table.from_pylist(table), path)
        return str(path)

    return write_rows
