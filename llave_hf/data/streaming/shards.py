"""Parts of data that are read one at a time: row groups of parquet, blocks of lines, slices of a saved folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.data.rows.validation import KNOWN, check_columns
from llave_hf.data.sources.files import json_records, parquet_errors, table_of_records

SHARD_ROWS = 4096  # rows that are checked, and of a shard without row groups of its own read, at a time


@dataclass(frozen=True)
class Shard:
    """Neighbouring rows of one file.

    Attributes:
        file: Where they stand.
        rows: How many there are.
        read: Their rows, in order, at most `SHARD_ROWS` at a time.
    """

    file: str
    rows: int
    read: Callable[[], Iterator[pa.Table]]


def shards_of(file: str) -> list[Shard]:
    """The shards of a parquet or JSONL file; it is not read, but the lines of JSONL are counted.

    Raises:
        ValueError: It cannot be streamed or read, or has not the columns that a row needs.
    """
    if file.endswith(".parquet"):
        return _parquet_shards(file)
    if file.endswith(".jsonl") and "://" not in file:
        return _json_line_shards(file)
    raise ValueError(
        f"{file} cannot be streamed: rows are read from parquet files and from local .jsonl files. Convert it, or "
        "leave `streaming` out."
    )


def saved_shards(folder: str, saved: Any) -> list[Shard]:
    """The shards of a `datasets.Dataset`, whose rows are mapped into memory."""
    check_columns(saved.column_names, folder)
    known = saved.select_columns([name for name in saved.column_names if name in KNOWN]).with_format("arrow")

    starts = range(0, len(saved), SHARD_ROWS)
    stops = [min(start + SHARD_ROWS, len(saved)) for start in starts]
    return [
        Shard(folder, stop - start, partial(_read_saved, known, start, stop))
        for start, stop in zip(starts, stops, strict=True)
    ]


def _read_saved(saved: Any, start: int, stop: int) -> Iterator[pa.Table]:
    yield saved[start:stop]


def _parquet_shards(file: str) -> list[Shard]:
    with parquet_errors(file), _open(file) as handle:
        opened = pq.ParquetFile(handle)
        footer, names = opened.metadata, opened.schema_arrow.names
    check_columns(names, file)
    columns = [name for name in names if name in KNOWN]
    shards: list[Shard] = []
    groups: list[int] = []
    rows = 0
    for group in range(footer.num_row_groups):
        groups.append(group)
        rows += footer.row_group(group).num_rows
        if rows >= SHARD_ROWS or group == footer.num_row_groups - 1:
            shards.append(Shard(file, rows, partial(_read_groups, file, footer, groups, columns)))
            groups, rows = [], 0
    return [shard for shard in shards if shard.rows]


def _read_groups(
    file: str, footer: pq.FileMetaData, groups: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.Table]:
    with parquet_errors(file), _open(file) as handle:
        opened = pq.ParquetFile(handle, metadata=footer)
        for batch in opened.iter_batches(SHARD_ROWS, row_groups=list(groups), columns=list(columns)):
            yield pa.Table.from_batches([batch])


def _json_line_shards(file: str) -> list[Shard]:
    shards: list[Shard] = []
    offset = start = rows = first_row = 0
    first_line = 1
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            offset += len(line)
            rows += bool(line.strip())
            if rows == SHARD_ROWS:
                shards.append(Shard(file, rows, partial(_read_lines, file, start, first_line, first_row, rows)))
                start, first_line, first_row, rows = offset, number + 1, first_row + rows, 0
    if rows:
        shards.append(Shard(file, rows, partial(_read_lines, file, start, first_line, first_row, rows)))
    return shards


def _read_lines(file: str, start: int, first_line: int, first_row: int, rows: int) -> Iterator[pa.Table]:
    with open(file, "rb") as lines:
        lines.seek(start)
        records = itertools.islice(json_records(lines, file, first_line), rows)
        table = table_of_records(records, file, first_row)
    check_columns(table.column_names, file)
    yield table


def _open(file: str) -> AbstractContextManager[Any]:
    if "://" not in file:
        return Path(file).open("rb")
    from huggingface_hub import HfFileSystem

    return HfFileSystem().open(file, "rb")
