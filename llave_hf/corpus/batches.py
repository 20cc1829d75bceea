"""Batches of rows as engines hand them over, and back in the same kind: Arrow, pandas, numpy columns, lists."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from llave_hf.data.described.sides import SideTemplates
from llave_hf.data.stored.columns import PLACES, pictures_of, place_texts, with_places

from .reading import Chunk

_FILE = "the batch"  # as messages call it


def column_names(batch: Any) -> list[str]:
    """The columns of a batch.

    Raises:
        TypeError: It is of no kind that is known.
    """
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        return list(batch.schema.names)
    if isinstance(batch, Mapping) or _is_frame(batch):
        return [str(name) for name in batch]
    raise TypeError(
        f"a batch is a {type(batch).__name__}; give an Arrow table or batch, a pandas frame, or columns by name."
    )


def chunk_of(batch: Any, side: SideTemplates, names: Sequence[str]) -> Chunk:
    """A batch's columns as rows that are read from a file are: pictures as places, and what they hold beside them.

    Args:
        batch: See [`column_names`].
        side: What is embedded.
        names: The columns that it names.
    """
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        table = table.select(list(names)).combine_chunks().replace_schema_metadata()
        raw = {name: table.column(name) for name in pictures_of(table.schema)}
        return Chunk(with_places(table, _FILE, 0), 0, raw)
    images = {side.image.column()} if side.image is not None else set()
    columns: dict[str, Any] = {}
    held: dict[str, Any] = {}
    for name in names:
        values = _values(batch[name])
        if name in images and any(_is_medium(value) for value in values):
            columns[name], held[name] = _places(values, name), values
        else:
            columns[name] = pa.array(values)
    return Chunk(pa.table(columns), 0, held)


def with_vectors(batch: Any, keep: Sequence[str], added: Mapping[str, pa.Array]) -> Any:
    """Columns of a batch and those that are added, in the batch's own kind."""
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        kept = {name: batch.column(name) for name in keep}
        fields = [*(batch.schema.field(name) for name in keep), *(pa.field(n, a.type) for n, a in added.items())]
        table = pa.table({**kept, **added}, schema=pa.schema(fields))
        if isinstance(batch, pa.Table):
            return table
        return table.to_batches(max_chunksize=None)[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema)
    made = {name: _objects(values) for name, values in added.items()}
    if _is_frame(batch):
        series = sys.modules["pandas"].Series  # by itself, assign makes NaN of None
        own = {name: series(values, index=batch.index, dtype=object) for name, values in made.items()}
        return batch[list(keep)].assign(**own)
    is_numpy = any(isinstance(batch[name], np.ndarray) for name in batch)
    kept = {name: batch[name] for name in keep}
    return {**kept, **(made if is_numpy else {name: list(values) for name, values in made.items()})}


def holds_media(batch: Any, name: str) -> bool:
    """Whether a column holds pictures themselves, which are not handed on."""
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        return name in pictures_of(pa.schema([batch.schema.field(name)]))
    return any(_is_medium(value) for value in _values(batch[name]))


def _is_frame(batch: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(batch, pandas.DataFrame)


def _values(column: Any) -> list[Any]:
    """The values of a column; pictures as arrays stay arrays."""
    if isinstance(column, np.ndarray):
        return column.tolist() if column.ndim == 1 and column.dtype != object else list(column)
    return list(column)


def _is_medium(value: Any) -> bool:
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        return any(_is_medium(entry) for entry in value)
    return value is not None and not isinstance(value, (str, int, float, bool, np.generic))


def _places(values: Sequence[Any], name: str) -> pa.Array:
    several = any(isinstance(value, (list, tuple)) for value in values)
    lists = [value if isinstance(value, (list, tuple)) else [] if value is None else [value] for value in values]
    if not several:
        rows = np.arange(len(values))
        texts = place_texts(_FILE, name, rows, np.zeros_like(rows), pa.scalar("", pa.large_string()))
        return pa.array(
            [None if value is None else text for value, text in zip(values, texts.to_pylist(), strict=True)],
            pa.large_string(),
        ).cast(PLACES)
    lengths = [len(entry) for entry in lists]
    rows = np.repeat(np.arange(len(values)), lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])
    texts = place_texts(_FILE, name, rows, positions, pa.scalar("", pa.large_string()))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    return pa.LargeListArray.from_arrays(offsets, texts.cast(PLACES))


def _objects(values: pa.Array) -> np.ndarray:
    """A vector or a text a row, None where there is none; of one type whether or not some are missing."""
    made = np.empty(len(values), dtype=object)
    if pa.types.is_fixed_size_list(values.type) or pa.types.is_list(values.type):
        for place, value in enumerate(values):
            made[place] = None if not value.is_valid else value.values.to_numpy(zero_copy_only=False)
    else:
        made[:] = values.to_pylist()
    return made
