"""What the data themselves say of a row: its label, and how hard its documents are (`label`, `*_hardness`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from llave_hf.data.described.names import HARDNESS, LABEL, NEGATIVE_HARDNESS
from llave_hf.data.samples import Pair

from .columns import ColumnError
from .groups import read_groups


@dataclass(frozen=True)
class Judgements:
    """Of the rows of one task.

    Attributes:
        labels: int64 `(n,)`, equal where the labels are; -1 where a row has none. None: no such column.
        hardness: float32 `(n,)`, h of each positive as a negative of other queries, or None.
        negative_hardness: float32, h of each negative, in the order of the negatives of all rows, or None.
        groups: int64 `(n,)`, see [`read_groups`], or None.
    """

    labels: np.ndarray | None = None
    hardness: np.ndarray | None = None
    negative_hardness: np.ndarray | None = None
    groups: np.ndarray | None = None


def read_judgements(table: pa.Table, task: str, negative_offsets: np.ndarray | None) -> Judgements:
    """Reads the columns that are there.

    Args:
        table: The rows of the task.
        task: Its name: a label means the same in one task only.
        negative_offsets: Where each row's negatives start, `(n + 1,)`; None: they are not read.

    Raises:
        ColumnError: A column has another type, a number is missing or not finite, or a row has more or fewer
            numbers than negatives.
    """
    negative_hardness = None
    if negative_offsets is not None and NEGATIVE_HARDNESS in table.column_names:
        negative_hardness = _negative_hardness(table, negative_offsets)
    labels = _label_codes(table, task) if LABEL in table.column_names else None
    hardness = None
    if HARDNESS in table.column_names:
        hardness = _numbers(table.column(HARDNESS), HARDNESS, np.arange(len(table)))
    return Judgements(labels, hardness, negative_hardness, read_groups(table))


def _label_codes(table: pa.Table, task: str) -> np.ndarray:
    column = table.column(LABEL)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_large_string(kind) or pa.types.is_string(kind)):
        raise ColumnError(f"column {LABEL!r} holds {kind}; it must hold integers or strings.")
    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    # Hashes, so that a label has the same number whichever rows are read beside it.
    codes = np.array([_code(task, name) for name in names] or [-1], dtype=np.int64)
    places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return np.where(places < 0, -1, codes[places])


def _code(task: str, label: str) -> int:
    digest = hashlib.blake2b(f"{len(task)}:{task}{label}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # 63 bits: never below 0, which means no label


def _numbers(column: pa.ChunkedArray, name: str, rows: np.ndarray) -> np.ndarray:
    """The entries as float32; `rows` says which row each belongs to."""
    try:
        numbers = column.cast(pa.float32()).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ColumnError(f"column {name!r} holds {column.type}; it must hold numbers.") from error
    values = pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ColumnError(f"{name!r} is {values[wrong[0]]}; give a finite number everywhere.", int(rows[wrong[0]]))
    return values


def _negative_hardness(table: pa.Table, offsets: np.ndarray) -> np.ndarray:
    """A number, or a list of them, a row: one for each negative that is not empty."""
    column = table.column(NEGATIVE_HARDNESS)
    wanted = np.diff(offsets)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        surplus = np.flatnonzero(wanted > 1)
        if len(surplus):
            row = int(surplus[0])
            raise ColumnError(f"{NEGATIVE_HARDNESS!r} is one number for {wanted[row]} negatives; give a list.", row)
        rows = np.flatnonzero(wanted == 1)
        return _numbers(column.take(pa.array(rows)), NEGATIVE_HARDNESS, rows)
    given = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    wrong = np.flatnonzero(given != wanted)
    if len(wrong):
        row = int(wrong[0])
        raise ColumnError(f"{NEGATIVE_HARDNESS!r} has {given[row]} numbers for {wanted[row]} negatives.", row)
    return _numbers(pc.list_flatten(column), NEGATIVE_HARDNESS, np.repeat(np.arange(len(table)), wanted))


def hardness_of(pairs: Sequence[Pair], columns: Sequence[str], most: int) -> dict[str, torch.Tensor]:
    """What a batch brings to a loss whose hardness is a column of the data.

    Args:
        pairs: B of them.
        columns: Which of `pos_hardness` and `neg_hardness` are needed.
        most: K; 0 where no pair has negatives.

    Returns:
        `document_hardness` `(B,)` and `negative_hardness` `(B, K)`, 0 past the last negative of a pair.

    Raises:
        ValueError: A row has none; the message names it.
    """
    for pair in pairs:
        lacking = {
            HARDNESS: pair.hardness is None,
            NEGATIVE_HARDNESS: bool(pair.negatives) and pair.negative_hardness is None,
        }
        for column in columns:
            if lacking[column]:
                raise ValueError(
                    f"{pair.source}, row {pair.row}: hardness_source is 'column' and the row has no {column!r}; add "
                    "the column, or leave the task out."
                )
    found: dict[str, torch.Tensor] = {}
    if HARDNESS in columns:
        found["document_hardness"] = torch.tensor([pair.hardness for pair in pairs])
    if NEGATIVE_HARDNESS in columns and most:
        rows = [pair.negative_hardness or () for pair in pairs]
        found["negative_hardness"] = torch.tensor([[*row, *[0.0] * (most - len(row))] for row in rows])
    return found
