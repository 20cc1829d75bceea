"""Files of vectors: kept columns, where a row stands, its vector or what is wrong with it; whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.data.stored.columns import PLACES, leaf_type
from llave_hf.errors import UserError

from .manifest import WORK
from .parts import Part
from .quantizing import vector_column, vector_type

KEY = b"llave_embed"  # of the schema: what the vectors are
ERRORS_KEY = b"llave_embed_errors"  # of the file: how many rows have none
EMBEDDING, ERROR = "embedding", "error"
FILE_COLUMN, ROW_COLUMN = "source_file", "source_row"
OWN = (FILE_COLUMN, ROW_COLUMN, EMBEDDING, ERROR)


def kept_columns(table: pa.Table, names: Sequence[str] | None, where: str) -> pa.Schema:
    """The columns of rows that stay beside their vectors.

    Args:
        table: Some rows, with pictures as places.
        names: Those that are wanted; None: all of texts, numbers, truth values, dates and times.
        where: The source, for messages.

    Raises:
        UserError: One is not there, holds pictures, or has the name of a column that is added.
    """
    fields = []
    for field in table.schema if names is None else (_named(table, name, where) for name in names):
        kind = pa.string() if pa.types.is_null(field.type) or pa.types.is_large_string(field.type) else field.type
        if leaf_type(field.type) == PLACES:
            if names is not None:
                raise UserError(f"--id {field.name}: the column holds pictures, which are not copied; leave it out.")
        elif names is not None or (not pa.types.is_nested(kind) and not pa.types.is_binary(kind)):
            fields.append(pa.field(field.name, kind))
    taken = [field.name for field in fields if field.name in OWN]
    if taken:
        raise UserError(
            f"{where} has a column {taken[0]!r}, as the vectors will have: say with --id which columns to keep, "
            "without it."
        )
    return pa.schema(fields)


def _named(table: pa.Table, name: str, where: str) -> pa.Field:
    if name not in table.column_names:
        raise UserError(f"--id {name}: there is no such column in {where}; there are {', '.join(table.column_names)}.")
    return table.schema.field(name)


def cast_kept(table: pa.Table, schema: pa.Schema, where: str) -> dict[str, pa.ChunkedArray]:
    """The kept columns of some rows, in the types that all files of vectors have.

    Raises:
        UserError: A value does not fit its column's type.
    """
    columns = {}
    for field in schema:
        if field.name not in table.column_names:
            columns[field.name] = pa.chunked_array([pa.nulls(len(table), field.type)])
            continue
        try:
            columns[field.name] = table.column(field.name).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            found = table.schema.field(field.name).type
            raise UserError(
                f"{where}: the column {field.name!r} holds {found} here and {field.type} in the first rows "
                f"({error}); make it one type, or say with --id which columns to keep."
            ) from error
    return columns


class ShardWriter:
    """One file of vectors, which is moved into its place when it is whole.

    Args:
        folder: That holds the manifest.
        part: Whose rows it is of.
        kept: The columns that stay.
        dimensions, precision, ranges: See [`vector_column`].
        about: What the file says of itself: model, prompt, versions.

    Attributes:
        next_row: The number of the row that comes next, in its file.
        errors: How many rows have no vector so far.
    """

    def __init__(
        self,
        folder: Path,
        part: Part,
        kept: pa.Schema,
        dimensions: int,
        precision: str,
        ranges: np.ndarray | None,
        about: Mapping[str, Any],
    ) -> None:
        self._place, self._part, self._kept = folder / part.name, part, kept
        self._dimensions, self._precision, self._ranges = dimensions, precision, ranges
        told = {**about, "file": part.file, "first_row": part.first_row, "rows": part.rows}
        metadata = {KEY: json.dumps(told, ensure_ascii=False).encode()}
        self.schema = shard_schema(kept, dimensions, precision).with_metadata(metadata)
        self._unfinished = folder / WORK / f"{part.name}.unfinished"
        self.next_row, self.errors = part.first_row, 0
        self._file = self._unfinished.open("wb")
        self._writer = pq.ParquetWriter(self._file, self.schema)

    def add(self, table: pa.Table, vectors: Sequence[np.ndarray | None], errors: Mapping[int, str]) -> None:
        """The next rows, with a vector each or by place what is wrong with it."""
        count = len(table)
        columns = cast_kept(table, self._kept, self._part.file)
        columns[FILE_COLUMN] = pa.array([self._part.file] * count, pa.string())
        columns[ROW_COLUMN] = pa.array(np.arange(self.next_row, self.next_row + count))
        columns[EMBEDDING] = vector_column(vectors, self._dimensions, self._precision, self._ranges)
        columns[ERROR] = pa.array([errors.get(place) for place in range(count)], pa.string())
        self._writer.write_table(pa.table(columns, schema=self.schema))
        self.next_row += count
        self.errors += len(errors)

    def finish(self) -> None:
        """Moves the file into its place; it is on the disk by then."""
        self._writer.add_key_value_metadata({ERRORS_KEY: str(self.errors)})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._unfinished, self._place)
        _sync(self._place.parent)

    def abandon(self) -> None:
        """Removes what there is."""
        self._writer.close()
        self._file.close()
        self._unfinished.unlink(missing_ok=True)


def shard_schema(kept: pa.Schema, dimensions: int, precision: str) -> pa.Schema:
    """The columns of a file of vectors."""
    own = [
        pa.field(FILE_COLUMN, pa.string()),
        pa.field(ROW_COLUMN, pa.int64()),
        pa.field(EMBEDDING, vector_type(dimensions, precision)),
        pa.field(ERROR, pa.string()),
    ]
    return pa.schema([*kept, *own])


def counts_of(folder: Path, part: Part) -> tuple[int, int]:
    """Rows and errors of a finished file.

    Raises:
        UserError: It is not what was written.
    """
    place = folder / part.name
    try:
        footer = pq.read_metadata(place)
        errors = int(footer.metadata[ERRORS_KEY])
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise UserError(f"{place} cannot be read ({error}); delete it, and run the command again.") from error
    if footer.num_rows != part.rows:
        raise UserError(f"{place} has {footer.num_rows} rows, not {part.rows}; delete it, and run the command again.")
    return footer.num_rows, errors


def _sync(folder: Path) -> None:
    """The folder's own entries; not every system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
