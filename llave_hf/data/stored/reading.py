"""Bytes out of files of rows: by place in Arrow files, which are mapped into memory, by row group in parquet."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import pyarrow as pa

from .groups import group_values

OPEN_FILES = 64  # a process keeps these mapped


def read_range(file: str, first: int, size: int) -> bytes:
    """Some bytes of a file as they are.

    Raises:
        OSError: It cannot be read, or ends before.
    """
    with open(file, "rb") as handle:
        handle.seek(first)
        content = handle.read(size)
    if len(content) != size:
        raise OSError(f"it ends {size - len(content)} bytes too early")
    return content


def read_value(file: str, row: int, column: str, position: int) -> bytes | None:
    """The bytes of a picture in a column of bytes, of the Hub's pictures, or of lists of either.

    Raises:
        OSError, ArrowException: The file cannot be read.
        LookupError: There is no such row or column.
    """
    if file.endswith(".arrow"):
        stamp = os.stat(file)
        value = _arrow_column(file, stamp.st_mtime_ns, stamp.st_size, column).value(row)
    else:
        value = group_values(file, row, column)
    if isinstance(value, list):
        value = value[position]
    return value["bytes"] if isinstance(value, dict) else value


class _Column:
    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = column.chunks
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])

    def value(self, row: int) -> Any:
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[chunk - 1]) if chunk else 0
        return self._chunks[chunk][row - first].as_py()


def arrow_table(file: str) -> pa.Table:
    """An Arrow file or stream, mapped into memory: nothing is read but what is looked at."""
    source = pa.memory_map(file)
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source).read_all()


@functools.lru_cache(maxsize=OPEN_FILES)
def _arrow_column(file: str, changed: int, size: int, column: str) -> _Column:
    return _Column(arrow_table(file).column(column))
