"""The sides of training rows, whether a recipe describes their columns or their names say what they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.described.names import NEGATIVES
from llave_hf.data.described.sides import Description
from llave_hf.data.sources.archives import KEY
from llave_hf.data.sources.specs import SourceSpec, suggest

from .columns import ColumnError, SideColumns
from .described import described_negatives, described_sides
from .known import check_columns, known_negatives, known_sides, tell_unread, under_one_name
from .list_texts import with_lists


def check_fields(fields: pa.Schema, spec: SourceSpec, where: str, *, tell: bool = True) -> None:
    """Looks whether all columns that are needed are there; says once which are not read.

    Args:
        fields: All columns of the source; those of pictures as [`places`] makes them.
        spec: What they mean.
        where: The source, for messages.
        tell: Whether to say which are not read.

    Raises:
        ValueError: A column is not there, or one of pictures would not be read; the message names the nearest.
    """
    description = spec.description()
    if description is None:
        check_columns(fields, where, spec.ignore)
    else:
        _check_described(fields.names, description, where)
    if tell:
        tell_unread(own_columns(fields), spec.columns(), spec.path, spec.ignore)


def own_columns(fields: pa.Schema) -> list[str]:
    """The columns that the source has itself, without those that were added as it was opened."""
    return [field.name for field in fields if not field.metadata]


def _check_described(names: list[str], description: Description, where: str) -> None:
    for side in description.sides():
        for template in side.templates():
            for column in template.columns():
                if column not in names:
                    raise ValueError(
                        f"{template.where}: there is no column {column!r} in {where}{suggest(column, names)}; "
                        f"there are {', '.join(names)}."
                    )


def training_sides(
    table: pa.Table, spec: SourceSpec, where: str, *, use_negatives: bool
) -> tuple[SideColumns, SideColumns, SideColumns | None, np.ndarray]:
    """Queries, positives and negatives of rows; row r has the negatives `offsets[r]:offsets[r + 1]`.

    Raises:
        ColumnError: A column holds what it must not.
    """
    description = spec.description()
    no_negatives = np.zeros(len(table) + 1, dtype=np.int64)
    if description is None:
        table = with_lists(under_one_name(table), NEGATIVES, where)
        query, positive = known_sides(table)
        if not use_negatives or set(NEGATIVES).isdisjoint(table.column_names):
            return query, positive, None, no_negatives
        return query, positive, *known_negatives(table, positive, where)
    lists = {column for side in description.negatives for one in side.templates() for column in one.columns()}
    table = with_lists(table, sorted(lists), where)
    if KEY in table.column_names:
        _check_members(table, description)
    query, positive = described_sides(table, description)
    if not use_negatives or not description.negatives:
        return query, positive, None, no_negatives
    return query, positive, *described_negatives(table, description)


def _check_members(table: pa.Table, description: Description) -> None:
    """In an archive, a member that is missing is a fault of the archive."""
    for column in description.columns():
        values = table.column(column)
        missing = pc.is_null(values)
        if pa.types.is_large_binary(values.type):
            missing = pc.or_(missing, pc.equal(pc.binary_length(values), 0))
        row = pc.index(missing, True).as_py()
        if row >= 0:
            key = table.column(KEY)[row].as_py()
            raise ColumnError(f"the sample {key!r} has no {column!r}; complete the archive, or take it out", row)
