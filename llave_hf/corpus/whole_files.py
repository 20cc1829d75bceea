"""Files that are read as a whole: CSV, and JSON that is one list."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pyarrow as pa

from llave_hf.data.sources.files import read_rows


def rows_of_whole_file(path: str) -> pa.Table:
    """The rows; those of the last file are kept, for its other parts.

    Raises:
        ValueError: It cannot be read.
    """
    found = os.stat(path)
    return _rows(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _rows(path: str, size: int, modified: int) -> pa.Table:
    return read_rows([Path(path)]).table
