"""Parts of data that are read one at a time: row groups of parquet, blocks of lines, samples that are neighbours in an
archive, slices of a saved folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.data.rows.known import check_unread, suspects
from llave_hf.data.rows.sides import check_fields
from llave_hf.data.sources.archive_samples import all_samples
from llave_hf.data.sources.archives import read_archive
from llave_hf.data.sources.files import json_records, parquet_errors, table_of_records
from llave_hf.data.sources.indexed import picture_places
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.data.sources.texts import check_texts, refuse_other_marks
from llave_hf.data.stored.columns import fields_of, pictures_of, with_places
from llave_hf.data.stored.groups import open_parquet
from llave_hf.data.stored.kept import state_of

SHARD_ROWS = 4096  # rows that are checked, and of a shard without row groups of its own read, at a time
PICTURE_ROWS = 64  # whose pictures' bytes are in memory together
_FIRST_ROWS = 100  # that are looked at before training


@dataclass(frozen=True)
class Shard:
    """Neighbouring rows of one file.

    Attributes:
        file: Where they stand.
        rows: How many there are.
        read: Their rows, in order, at most `SHARD_ROWS` at a time. Given names of columns, only these are wanted, and
            others may be left out.
    """

    file: str
    rows: int
    read: Callable[..., Iterator[pa.Table]]


@dataclass(frozen=True)
class Block:
    """Neighbouring rows of a file that has to be gone through to find them.

    Attributes:
        start: Where the first of them begins, in bytes.
        first_row: Its number in the file, from 0.
        rows: How many there are.
        first_line: Of a file of lines, the number of the line at `start`, from 1.
    """

    start: int
    first_row: int
    rows: int
    first_line: int = 1


def sample_blocks(file: str, rows: int) -> Iterator[Block]:
    """The samples of an archive, so many at a time; only headers are read, and nothing where they are known.

    Raises:
        ValueError: See [`samples_of`].
    """
    starts = all_samples(file, state_of(file)).starts
    for first in range(0, len(starts), rows):
        yield Block(int(starts[first]), first, min(rows, len(starts) - first))


def line_blocks(file: str, rows: int) -> Iterator[Block]:
    """The lines of a file that are not blank, so many at a time; they are counted.

    Raises:
        ValueError: It is not in UTF-8.
    """
    offset = start = first = count = 0
    first_line = 1
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                refuse_other_marks(line, file)
            offset += len(line)
            count += bool(line.strip())
            if count == rows:
                yield Block(start, first, count, first_line)
                start, first_line, first, count = offset, number + 1, first + count, 0
    if count:
        yield Block(start, first, count, first_line)


def read_lines(file: str, block: Block) -> pa.Table:
    """The rows of a block of a JSONL file.

    Raises:
        ValueError: A line cannot be used; the message names it.
    """
    with open(file, "rb") as lines:
        lines.seek(block.start)
        records = itertools.islice(json_records(lines, file, block.first_line), block.rows)
        return table_of_records(records, file, block.first_row)


def shards_of(file: str, spec: SourceSpec) -> list[Shard]:
    """The shards of a parquet, JSONL or tar file; it is not read, but lines and headers of members are counted.

    Raises:
        ValueError: It cannot be streamed or read, or has not the columns that a row needs.
    """
    if file.endswith(".parquet"):
        return _parquet_shards(file, spec)
    if file.endswith(".jsonl") and "://" not in file:
        return _json_line_shards(file, spec)
    if file.endswith(".tar") and "://" not in file:
        return _archive_shards(file, spec)
    raise ValueError(
        f"{file} cannot be streamed: rows are read from parquet files and from local .jsonl and .tar files. Convert "
        "it, or leave `streaming` out."
    )


def saved_shards(folder: str, saved: Any, spec: SourceSpec) -> list[Shard]:
    """The shards of a `datasets.Dataset`, whose rows are mapped into memory."""
    fields = fields_of(saved.features.arrow_schema)
    check_fields(fields, spec, folder)
    if saved._indices is not None:
        saved = saved.flatten_indices()
    columns = [name for name in fields.names if name in spec.columns()]
    starts = range(0, len(saved), SHARD_ROWS)
    stops = [min(start + SHARD_ROWS, len(saved)) for start in starts]
    return [
        Shard(folder, stop - start, partial(_saved_shard, folder, saved, columns, start, stop))
        for start, stop in zip(starts, stops, strict=True)
    ]


def _saved_shard(
    folder: str, saved: Any, columns: list[str], start: int, stop: int, only: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    yield read_saved(folder, saved, _wanted(columns, only), start, stop, with_digests=True)


def read_saved(
    folder: str, saved: Any, columns: Sequence[str], start: int, stop: int, *, with_digests: bool = False
) -> pa.Table:
    """Columns of neighbouring rows of a `datasets.Dataset` without indices of its own; see [`picture_places`]."""
    pictures = [name for name in pictures_of(saved.features.arrow_schema) if name in columns]
    others = [name for name in columns if name not in pictures]
    made = {}
    if others:
        table = saved.select_columns(others).with_format("arrow")[start:stop]
        table = check_texts(table, folder, start)
        made = dict(zip(table.column_names, table.columns, strict=True))
    if pictures:
        table = picture_places(saved, pictures, start, stop, with_digests=with_digests)
        made |= dict(zip(table.column_names, table.columns, strict=True))
    return pa.table(made)


def _parquet_shards(file: str, spec: SourceSpec) -> list[Shard]:
    with parquet_errors(file), open_parquet(file) as handle:
        opened = pq.ParquetFile(handle)
        footer, fields = opened.metadata, fields_of(opened.schema_arrow)
        check_fields(fields, spec, file)
        _check_suspects(opened, fields, spec, file)
    columns = [name for name in fields.names if name in spec.columns()]
    shards: list[Shard] = []
    groups: list[int] = []
    first = rows = 0
    for group in range(footer.num_row_groups):
        groups.append(group)
        rows += footer.row_group(group).num_rows
        if rows >= SHARD_ROWS or group == footer.num_row_groups - 1:
            shards.append(Shard(file, rows, partial(_read_groups, file, footer, groups, columns, first)))
            first, groups, rows = first + rows, [], 0
    return [shard for shard in shards if shard.rows]


def _check_suspects(opened: pq.ParquetFile, fields: pa.Schema, spec: SourceSpec, file: str) -> None:
    names = suspects(fields.names, spec.ignore) if spec.description() is None else []
    if names and opened.metadata.num_rows:
        batch = next(opened.iter_batches(_FIRST_ROWS, columns=names))
        check_unread(pa.Table.from_batches([batch]), file, spec.ignore)


def _wanted(columns: Sequence[str], only: Sequence[str] | None) -> list[str]:
    return [name for name in columns if only is None or name in only]


def _read_groups(
    file: str,
    footer: pq.FileMetaData,
    groups: Sequence[int],
    columns: Sequence[str],
    first_row: int,
    only: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Pictures are read with their rows, for digests of them, few at a time; and none is kept."""
    columns = _wanted(columns, only)
    with parquet_errors(file), open_parquet(file) as handle:
        opened = pq.ParquetFile(handle, metadata=footer)
        names = pictures_of(opened.schema_arrow)
        rows = PICTURE_ROWS if set(columns) & set(names) else SHARD_ROWS
        read: list[pa.Table] = []
        for batch in opened.iter_batches(rows, row_groups=list(groups), columns=list(columns)):
            table = pa.Table.from_batches([batch]).replace_schema_metadata()
            read.append(with_places(check_texts(table, file, first_row), file, first_row, with_digests=True))
            first_row += len(table)
            if sum(map(len, read)) >= SHARD_ROWS:
                yield pa.concat_tables(read)
                read = []
        if read:
            yield pa.concat_tables(read)


def _archive_shards(file: str, spec: SourceSpec) -> list[Shard]:
    shards = [
        Shard(file, block.rows, partial(_read_samples, file, spec, block.start, block.first_row, block.rows))
        for block in sample_blocks(file, SHARD_ROWS)
    ]
    if shards:
        check_fields(read_archive(file, spec.columns(), rows=_FIRST_ROWS)[1], spec, file)
    return shards


def _read_samples(
    file: str, spec: SourceSpec, start: int, first_row: int, rows: int, only: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    table, fields = read_archive(file, spec.columns(), start=start, first_row=first_row, rows=rows, with_digests=True)
    check_fields(fields, spec, file)
    yield table


def _json_line_shards(file: str, spec: SourceSpec) -> list[Shard]:
    return [
        Shard(file, block.rows, partial(_checked_lines, file, spec, block)) for block in line_blocks(file, SHARD_ROWS)
    ]


def _checked_lines(file: str, spec: SourceSpec, block: Block, only: Sequence[str] | None = None) -> Iterator[pa.Table]:
    table = read_lines(file, block)
    check_fields(table.schema, spec, file)
    yield table
