"""Lists that were written as text, `"['a cat', 'a dog']"`, as tables made by pandas have them."""

from __future__ import annotations

import ast
import functools
import logging
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .columns import ColumnError

logger = logging.getLogger(__name__)

_LIST = r"^\s*\[.*\]\s*$"


def with_lists(table: pa.Table, columns: Iterable[str], where: str) -> pa.Table:
    """The table, whose columns of lists written as text hold lists; empty texts are empty lists. Said once a column.

    A column holds lists where all of its texts are Python's lists of texts.

    Args:
        table: The rows.
        columns: Which may hold lists.
        where: The source, for the log.

    Raises:
        ColumnError: More texts than not are lists, and one is none.
    """
    for name in columns:
        kind = table.schema.field(name).type if name in table.column_names else None
        if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        lists = _lists(table.column(name), name)
        if lists is not None:
            _tell(where, name)
            table = table.set_column(
                table.column_names.index(name), name, pa.array(lists, pa.list_(pa.large_string()))
            )
    return table


def _lists(column: pa.ChunkedArray, name: str) -> list[list[str | None]] | None:
    given = pc.sum(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)).as_py() or 0
    like_lists = pc.sum(pc.match_substring_regex(column, _LIST.replace(".*", r"(?s:.*)"))).as_py() or 0
    if not given or 2 * like_lists <= given:
        return None
    read: list[list[str | None] | None] = [_read(text) if text and text.strip() else [] for text in column.to_pylist()]
    wrong = [row for row, value in enumerate(read) if value is None]
    if 2 * (given - len(wrong)) <= given:
        return None  # texts in brackets
    if wrong:
        raise ColumnError(
            f"{name!r} holds lists written as text, but {column[wrong[0]].as_py()!r:.80} is none; correct it", wrong[0]
        )
    return [value or [] for value in read]


def _read(text: str) -> list[str | None] | None:
    try:
        value: Any = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(entry is None or isinstance(entry, str) for entry in value):
        return None
    return value


@functools.cache
def _tell(where: str, name: str) -> None:
    logger.warning("%s: column %r holds lists written as text; they are read as lists.", where, name)
