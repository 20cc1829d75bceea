"""Columns of pictures in Arrow tables become columns of places: the bytes stay where they are until they are needed.

A column of places has type `large_binary` (or lists of it): the path of a picture, or a place as `StoredPicture`
writes it. No other column of an opened table has that type, so it says that pictures are meant.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .groups import is_of
from .pictures import MARK, content_digest

PLACES = pa.large_binary()
_STRINGS = pa.large_string()
_ROWS_AT_ONCE = 64  # whose bytes are in memory together where nothing else tells which of them are null


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def leaf_type(kind: pa.DataType) -> pa.DataType:
    """The type of values, or of what lists of them hold at the last."""
    while is_list(kind):
        kind = kind.value_type
    return kind


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_picture(kind: pa.DataType) -> bool:
    """Whether values are bytes, the Hub's structure of `bytes` and `path`, or lists of either."""
    if is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        parts = {part.name: part.type for part in kind}
        return set(parts) == {"bytes", "path"} and (is_bytes(parts["bytes"]) or pa.types.is_null(parts["bytes"]))
    return is_bytes(kind)


def pictures_of(schema: pa.Schema) -> list[str]:
    """The columns of pictures."""
    return [field.name for field in schema if is_picture(field.type)]


def fields_of(schema: pa.Schema) -> pa.Schema:
    """A schema as an opened table has it: pictures as places."""
    return pa.schema(
        [pa.field(part.name, _type_of_places(part.type) if is_picture(part.type) else part.type) for part in schema]
    )


def _type_of_places(kind: pa.DataType) -> pa.DataType:
    return pa.large_list(PLACES) if is_list(kind) else PLACES


def places(values: pa.Array, file: str, column: str, rows: np.ndarray, *, with_digests: bool = False) -> pa.Array:
    """Where the pictures of a column stand.

    Args:
        values: `(n,)` of a type that [`is_picture`]; their bytes are looked at for digests only.
        file: That they stand in.
        column: Its name there.
        rows: `(n,)` numbers of the rows in the file.
        with_digests: Whether to take digests of the bytes along.

    Returns:
        `(n,)` large_binary, or large_list<large_binary> where the values are lists; empty where there is no picture.
    """
    if not is_list(values.type):
        return _flat(values, file, column, rows, np.zeros(len(values), np.int64), with_digests)
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    parents = np.repeat(np.arange(len(values)), lengths)
    positions = np.arange(len(parents)) - offsets[parents]
    inner = _flat(pc.list_flatten(values), file, column, rows[parents], positions, with_digests)
    return pa.LargeListArray.from_arrays(pa.array(offsets), inner)


def _flat(
    values: pa.Array, file: str, column: str, rows: np.ndarray, positions: np.ndarray, with_digests: bool
) -> pa.Array:
    if pa.types.is_struct(values.type):
        paths = pc.fill_null(pc.struct_field(values, "path").cast(_STRINGS), "")
        contents = pc.struct_field(values, "bytes")
        wrong = pc.index(pc.match_substring(paths, MARK), True).as_py()
        if wrong >= 0:  # it could be taken for the text of a place
            raise ValueError(f"{file}, row {rows[wrong]}, column {column!r}: the path holds a zero byte; correct it.")
    else:
        paths, contents = pa.array([""] * len(values), _STRINGS), values
    held = pc.is_valid(contents)
    digests = pa.scalar("", _STRINGS)
    if with_digests:
        of = [content_digest(value.as_buffer()) if value.is_valid else "" for value in contents]
        digests = pa.array(of, _STRINGS)
    return pc.if_else(held, place_texts(file, column, rows, positions, digests), paths).cast(PLACES)


def place_texts(
    file: str,
    column: str | pa.Array,
    rows: np.ndarray,
    positions: np.ndarray,
    digests: pa.Array | pa.Scalar,
    spans: tuple[np.ndarray, np.ndarray] | None = None,
) -> pa.Array:
    """What `StoredPicture.encoded` gives, of many rows at once: large_string `(n,)`."""
    first, size = ("", "") if spans is None else map(pa.array, spans)
    parts = [f"{MARK}{file}", pa.array(rows), column, pa.array(positions), first, size, digests]
    texts = [
        pa.scalar(part, _STRINGS) if isinstance(part, str) else part if part.type == _STRINGS else part.cast(_STRINGS)
        for part in parts
    ]
    return pc.binary_join_element_wise(*texts, pa.scalar(MARK, _STRINGS))


def with_places(
    table: pa.Table, file: str, first_row: int, *, with_digests: bool = False, names: dict[str, str] | None = None
) -> pa.Table:
    """A table whose columns of pictures are columns of places.

    Args:
        table: Neighbouring rows of a file.
        file: Where they stand.
        first_row: Number of the first of them in it.
        with_digests: See [`places`].
        names: What a column is called in the file, where that differs.
    """
    for column in pictures_of(table.schema):
        chunks, start = [], first_row
        for chunk in table.column(column).chunks:
            rows = np.arange(start, start + len(chunk))
            chunks.append(places(chunk, file, (names or {}).get(column, column), rows, with_digests=with_digests))
            start += len(chunk)
        kind = _type_of_places(table.schema.field(column).type)
        table = table.set_column(table.column_names.index(column), column, pa.chunked_array(chunks, kind))
    return table


def parquet_places(opened: pq.ParquetFile, file: str, column: str) -> pa.ChunkedArray:
    """Where the pictures of a parquet column stand. What is known of them without their bytes is taken from there.

    Only where some pictures lack, and the file does not say which, are they read, a few at a time.
    """
    footer, kind = opened.metadata, opened.schema_arrow.field(column).type
    leaves = [n for n in range(footer.num_columns) if is_of(footer.schema.column(n).path, column)]
    paths = [footer.schema.column(n).path for n in leaves]
    held = next(n for n, path in zip(leaves, paths, strict=True) if len(leaves) == 1 or path.endswith("bytes"))
    path = next((path for path in paths if len(leaves) > 1 and path.endswith("path")), None)
    chunks, first = [], 0
    for group in range(footer.num_row_groups):
        count = footer.row_group(group).num_rows
        statistics = footer.row_group(group).column(held).statistics
        nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
        values = _without_bytes(opened, group, column, kind, path, count, nulls)
        if values is None:
            batches = opened.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False)
        else:
            batches = iter([values])
        for batch in batches:
            here = batch.column(column) if isinstance(batch, pa.RecordBatch) else batch
            chunks.append(places(here, file, column, np.arange(first, first + len(here))))
            first += len(here)
    return pa.chunked_array(chunks, _type_of_places(kind))


def _without_bytes(
    opened: pq.ParquetFile, group: int, column: str, kind: pa.DataType, path: str | None, count: int, nulls: int | None
) -> pa.Array | None:
    """A group's values with empty bytes where there are some; None where only the bytes say where that is."""
    if nulls is None:
        return None
    paths = None
    if path is not None and (nulls or is_list(kind)):
        paths = pa.concat_arrays(opened.read_row_group(group, columns=[path], use_threads=False).column(column).chunks)
    if not is_list(kind):
        if nulls not in (0, count):
            return None
        contents = pa.nulls(count, pa.binary()) if nulls else pa.array([b""] * count)
        if not nulls or paths is None:
            return contents
        return _structs(contents, pc.struct_field(paths, "path"))
    if paths is None:
        return None
    lengths = pc.fill_null(pc.list_value_length(paths), 0).to_numpy(zero_copy_only=False)
    if nulls != int((lengths == 0).sum()):
        return None
    inner = _structs(pa.array([b""] * int(lengths.sum())), pc.struct_field(pc.list_flatten(paths), "path"))
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)), inner)


def _structs(contents: pa.Array, paths: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([contents, paths], names=["bytes", "path"])
