"""`datasets`' own reader of WebDataset's archives, to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets


def read(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The samples of some archives, pictures as bytes."""
    rows = datasets.load_dataset("webdataset", data_files=list(map(str, files)), split="train", streaming=True)
    for row in rows.cast_column("png", datasets.Image(decode=False)):
        yield {**row, "png": row["png"]["bytes"]}
