"""Single values of a parquet file's large columns. Parquet is read by row groups: for one picture, all beside it.

So a group that is large is read once and kept as an Arrow file in `llave_hf/groups` of the Hugging Face cache
(`HF_HOME`), from which any process then reads single pictures. It may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import constants

from .kept import write_whole

logger = logging.getLogger(__name__)

SMALL = 1 << 20  # bytes of a group's column that are read again rather than kept on disk
GROUPS_IN_MEMORY = 8  # small ones
GROUPS_MAPPED = 256


@dataclass(frozen=True)
class _Footer:
    metadata: pq.FileMetaData
    ends: np.ndarray  # rows up to the end of each group
    stamp: str  # changes with the file


def open_parquet(file: str) -> AbstractContextManager[Any]:
    """A parquet file, here or on the Hub, as something to read from."""
    if "://" not in file:
        return Path(file).open("rb")
    from huggingface_hub import HfFileSystem

    return HfFileSystem().open(file, "rb")


def kept_groups() -> Path:
    """Where row groups are kept."""
    return Path(constants.HF_HOME) / "llave_hf" / "groups"


def is_of(path: str, column: str) -> bool:
    """Whether a leaf of a parquet file's schema belongs to a column."""
    return path == column or path.startswith(f"{column}.")


def group_values(file: str, row: int, column: str) -> Any:
    """The value of a column in one row.

    Raises:
        OSError, ArrowException: The file cannot be read.
        LookupError: There is no such row or column.
    """
    footer = _footer(file, _stamp(file))
    group = int(np.searchsorted(footer.ends, row, side="right"))
    if group >= len(footer.ends):
        raise IndexError(f"it has {footer.ends[-1] if len(footer.ends) else 0} rows")
    values = _group(file, footer.stamp, group, column)
    return values[row - (int(footer.ends[group - 1]) if group else 0)].as_py()


def _group(file: str, stamp: str, group: int, column: str) -> pa.ChunkedArray:
    metadata = _footer(file, stamp).metadata.row_group(group)
    chunks = (metadata.column(number) for number in range(metadata.num_columns))
    size = sum(chunk.total_uncompressed_size for chunk in chunks if is_of(chunk.path_in_schema, column))
    if size <= SMALL and "://" not in file:
        return _small_group(file, stamp, group, column)
    try:
        return _kept_group(file, stamp, group, column)
    except OSError as error:  # no room on the disk, or a folder that may not be written to
        _tell_of_no_room(f"{kept_groups()} ({error.strerror})")
        return _small_group(file, stamp, group, column)


@functools.lru_cache(maxsize=GROUPS_IN_MEMORY)
def _small_group(file: str, stamp: str, group: int, column: str) -> pa.ChunkedArray:
    return _read_group(file, stamp, group, column)


@functools.lru_cache(maxsize=GROUPS_MAPPED)
def _kept_group(file: str, stamp: str, group: int, column: str) -> pa.ChunkedArray:
    name = hashlib.sha256(f"{file}\0{stamp}\0{group}\0{column}".encode()).hexdigest()
    path = kept_groups() / name[:2] / f"{name}.arrow"
    if not path.is_file():
        values = pa.table({"values": _read_group(file, stamp, group, column)})

        def write(whole: IO[bytes]) -> None:
            with pa.ipc.new_file(whole, values.schema) as writer:
                writer.write_table(values)

        write_whole(path, write)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("values")


def _read_group(file: str, stamp: str, group: int, column: str) -> pa.ChunkedArray:
    with open_parquet(file) as handle:
        opened = pq.ParquetFile(handle, metadata=_footer(file, stamp).metadata)
        return opened.read_row_group(group, columns=[column], use_threads=False).column(column)


@functools.lru_cache(maxsize=1024)
def _footer(file: str, stamp: str) -> _Footer:
    with open_parquet(file) as handle:
        metadata = pq.ParquetFile(handle).metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return _Footer(metadata, np.cumsum(rows), stamp)


def _stamp(file: str) -> str:
    if "://" in file:
        return ""  # the commit stands in the address
    found = os.stat(file)
    return f"{found.st_size} {found.st_mtime_ns}"


@functools.cache
def _tell_of_no_room(reason: str) -> None:
    logger.warning(
        "Row groups cannot be kept in %s: pictures are read more slowly. Make room, or set HF_HOME.", reason
    )
