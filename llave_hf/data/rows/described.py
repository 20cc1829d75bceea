"""Training rows whose columns a recipe describes: templates filled for all rows at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.described.fields import FieldError
from llave_hf.data.described.sides import Description, SideTemplates
from llave_hf.data.described.templates import Reference, Template, shown
from llave_hf.data.stored.columns import PLACES, is_list, leaf_type

from .columns import ColumnError, SideColumns, aligned_entries, side_columns, with_marks

_STRINGS = pa.large_string()
_PARTS = ("text", "image", "video")


def described_sides(table: pa.Table, description: Description) -> tuple[SideColumns, SideColumns]:
    """Queries and positives of all rows.

    Raises:
        ColumnError: A column holds what a template cannot show.
    """
    return described_side(table, description.query, "query"), described_side(table, description.positive, "positive")


def described_negatives(table: pa.Table, description: Description) -> tuple[SideColumns, np.ndarray]:
    """The negatives of all rows, as [`negative_columns`] gives them.

    A column of lists has one entry a negative, and stands in a template for each of them in turn; columns without
    lists stand beside each. Negatives without text and media are left out.

    Raises:
        ColumnError: A column holds what a template cannot show, or lists of a row are not equally long.
    """
    sides, parents = [], []
    for templates in description.negatives:
        exploded, rows = _one_row_a_negative(table, templates)
        try:
            sides.append(described_side(exploded, templates, "negatives", optional=True))
        except ColumnError as error:
            raise ColumnError(str(error), None if error.row is None else int(rows[error.row])) from error
        parents.append(rows)
    row = np.concatenate(parents)
    order = np.argsort(row, kind="stable")
    every = SideColumns.concatenated(sides).take(order)
    present = np.flatnonzero(~every.empty())
    counts = np.bincount(row[order][present], minlength=len(table))
    return every.take(present), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def described_side(table: pa.Table, templates: SideTemplates, role: str, *, optional: bool = False) -> SideColumns:
    """One side of all rows. It is empty where all of its columns are, whatever its templates say around them.

    Args:
        table: With pictures as places.
        templates: The side.
        role: Its name, for messages.
        optional: Whether a column may be empty beside others that are not.

    Raises:
        ColumnError: A column holds what a template cannot show.
    """
    made = {}
    empty = np.ones(len(table), dtype=bool)
    shows = False
    for part in _PARTS:
        template = getattr(templates, part)
        if template is None:
            continue
        made[part], blank = _filled(table, template, f"{role}: {part}", media=part != "text", optional=optional)
        if blank is not None:
            shows = True
            empty &= blank
    if shows and empty.any():
        made = {
            part: pc.if_else(pa.array(empty), pa.scalar(None, values.type), values) for part, values in made.items()
        }
    return with_marks(side_columns(pa.table(made), *_PARTS))


def _filled(
    table: pa.Table, template: Template, field: str, *, media: bool, optional: bool
) -> tuple[pa.Array, np.ndarray | None]:
    """The template in all rows: strings, or places of pictures; and where its columns are empty, if it has any."""
    references = [found for _, found in template.parts() if found is not None]
    if not references:
        return pa.array([template.fill({}, field)] * len(table), _STRINGS), None
    whole = template.reference() is not None
    if media and whole and not references[0].keys and not references[0].spec:
        return _media(_combined(table.column(references[0].column)), references[0].column, field)
    pieces: list[pa.Array | pa.Scalar] = []
    blank = np.ones(len(table), dtype=bool)
    for before, reference in template.parts():
        if before:
            pieces.append(pa.scalar(before, _STRINGS))
        if reference is not None:
            values = _texts(_value(table, reference), reference, field, pure=optional or whole)
            blank &= pc.equal(values, "").to_numpy(zero_copy_only=False)
            pieces.append(values)
    return pc.binary_join_element_wise(*pieces, pa.scalar("", _STRINGS)), blank


def _media(values: pa.Array, column: str, field: str) -> tuple[pa.Array, np.ndarray]:
    leaf = leaf_type(values.type)
    if leaf != PLACES and not (pa.types.is_string(leaf) or pa.types.is_large_string(leaf) or pa.types.is_null(leaf)):
        raise ColumnError(f"{field} is the column {column!r}, which holds {values.type}; give pictures or paths.")
    if is_list(values.type):
        blank = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False) == 0
    else:
        lengths = (
            pc.fill_null(pc.binary_length(values), 0) if not pa.types.is_null(leaf) else pa.array([0] * len(values))
        )
        blank = lengths.to_numpy(zero_copy_only=False) == 0
    return values, blank


def _value(table: pa.Table, reference: Reference) -> pa.Array:
    values = _combined(table.column(reference.column))
    for key in reference.keys:
        if isinstance(key, str):
            if not pa.types.is_struct(values.type) or key not in {part.name for part in values.type}:
                raise ColumnError(f"{reference.name!r} cannot be read: the values are {values.type}, without {key!r}")
            values = pc.struct_field(values, key)
        else:
            if not is_list(values.type):
                raise ColumnError(f"{reference.name!r} cannot be read: the values are {values.type}, no lists")
            short = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False) <= key
            if short.any():
                raise ColumnError(f"{reference.name!r} cannot be read: the list is too short", int(short.argmax()))
            values = pc.list_element(values, key)
    return values


def _texts(values: pa.Array, reference: Reference | None, field: str, *, pure: bool) -> pa.Array:
    """Values as a template shows them; `pure` ones may be missing, which is no text."""
    assert reference is not None
    kind = values.type
    if reference.spec or is_list(kind):
        return pa.array(
            [
                _shown(value, reference, field, row, pure and not is_list(kind))
                for row, value in enumerate(values.to_pylist())
            ],
            _STRINGS,
        )
    if kind == PLACES:
        raise ColumnError(
            f"{field} shows {reference.name!r}, which holds pictures; write `image: {reference.column}`."
        )
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)) and not (
        pa.types.is_null(kind)
    ):
        raise ColumnError(
            f"{field} shows {reference.name!r}, which holds {kind}; it must hold texts or whole numbers."
        )
    if values.null_count and not pure:
        row = pc.index(pc.is_null(values), True).as_py()
        raise ColumnError(f"{field} shows {reference.name!r}, which is empty; fill it in, or drop the row.", row)
    return pc.fill_null(values.cast(_STRINGS), "")


def _shown(value: object, reference: Reference, field: str, row: int, optional: bool) -> str:
    if value is None and optional:
        return ""
    try:
        return shown(value, reference.spec, f"{field} shows {reference.name!r}, which")
    except FieldError as error:
        raise ColumnError(str(error), row) from error


def _one_row_a_negative(table: pa.Table, templates: SideTemplates) -> tuple[pa.Table, np.ndarray]:
    """The columns that templates name, a row for each entry of their lists, and the row that each came from."""
    columns = list(dict.fromkeys(column for template in templates.templates() for column in template.columns()))
    lists = [column for column in columns if is_list(table.schema.field(column).type) and _spread(templates, column)]
    used = table.select(columns)
    if not lists:
        return used, np.arange(len(table))
    lengths = [
        pc.fill_null(pc.list_value_length(_combined(table.column(column))), 0).to_numpy(zero_copy_only=False)
        for column in lists
    ]
    longest = np.max(lengths, axis=0)
    rows = np.repeat(np.arange(len(table)), longest)
    made = {}
    for column in columns:
        values = _combined(table.column(column))
        if column not in lists:
            made[column] = values.take(pa.array(rows))
            continue
        made[column] = aligned_entries(values, longest, column, "another column of `negatives`")
    return pa.table(made), rows


def _spread(templates: SideTemplates, column: str) -> bool:
    """Whether a template shows a column of lists entry by entry."""
    references = [found for template in templates.templates() for _, found in template.parts() if found is not None]
    return all(not (found.keys or found.spec) for found in references if found.column == column)


def _combined(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )
