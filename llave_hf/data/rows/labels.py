"""What the data themselves say of a row: its label, how hard its documents are, and how well they answer it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from llave_hf.data.described.names import HARDNESS, LABEL, NEGATIVE_HARDNESS, NEGATIVE_SCORE, SCORE
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
        scores: float32 `(n,)`, how well each positive answers its query; NaN where a row has no negatives and says
            nothing. Or None.
        negative_scores: float32, the same of each negative, in the order of the negatives of all rows, or None.
        groups: int64 `(n,)`, see [`read_groups`], or None.
    """

    labels: np.ndarray | None = None
    hardness: np.ndarray | None = None
    negative_hardness: np.ndarray | None = None
    scores: np.ndarray | None = None
    negative_scores: np.ndarray | None = None
    groups: np.ndarray | None = None

    def of_row(self, index: int, own: slice) -> dict[str, Any]:
        """What is said of one row, by the names of [`Pair`]'s fields; `own` are the places of its negatives."""
        score = None if self.scores is None else float(self.scores[index])
        return {
            "label": -1 if self.labels is None else int(self.labels[index]),
            "hardness": None if self.hardness is None else float(self.hardness[index]),
            "negative_hardness": None
            if self.negative_hardness is None
            else tuple(self.negative_hardness[own].tolist()),
            "score": None if score is None or math.isnan(score) else score,
            "negative_scores": None if self.negative_scores is None else tuple(self.negative_scores[own].tolist()),
            "group": -1 if self.groups is None else int(self.groups[index]),
        }


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
    negative_hardness, negative_scores = (
        _of_negatives(table, name, negative_offsets)
        if negative_offsets is not None and name in table.column_names
        else None
        for name in (NEGATIVE_HARDNESS, NEGATIVE_SCORE)
    )
    labels = _label_codes(table, task) if LABEL in table.column_names else None
    hardness = None
    if HARDNESS in table.column_names:
        hardness = _numbers(table.column(HARDNESS), HARDNESS, np.arange(len(table)))
    scores = None
    if SCORE in table.column_names:
        has_negatives = np.zeros(len(table), bool) if negative_offsets is None else np.diff(negative_offsets) > 0
        scores = _scores(table.column(SCORE), has_negatives)
    return Judgements(labels, hardness, negative_hardness, scores, negative_scores, read_groups(table))


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
    """The entries as float32, all finite; `rows` says which row each belongs to."""
    values = _floats(column, name)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ColumnError(f"{name!r} is {values[wrong[0]]}; give a finite number everywhere.", int(rows[wrong[0]]))
    return values


def _floats(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """The entries as float32, NaN where there is none."""
    try:
        numbers = column.cast(pa.float32()).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ColumnError(f"column {name!r} holds {column.type}; it must hold numbers.") from error
    return pc.fill_null(numbers, float("nan")).to_numpy(zero_copy_only=False)


def _scores(column: pa.ChunkedArray, has_negatives: np.ndarray) -> np.ndarray:
    """Of positives: a row that has no negatives `(n,)` may say nothing, as it has nothing to be graded against."""
    values = _floats(column, SCORE)
    wrong = np.flatnonzero(~np.isfinite(values) & (has_negatives | ~np.isnan(values)))
    if len(wrong):
        row = int(wrong[0])
        raise ColumnError(f"{SCORE!r} is {values[row]}; give a finite number to each row with negatives.", row)
    return values


def _of_negatives(table: pa.Table, name: str, offsets: np.ndarray) -> np.ndarray:
    """A number, or a list of them, a row: one for each negative that is not empty."""
    column = table.column(name)
    wanted = np.diff(offsets)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        surplus = np.flatnonzero(wanted > 1)
        if len(surplus):
            row = int(surplus[0])
            raise ColumnError(f"{name!r} is one number for {wanted[row]} negatives; give a list.", row)
        rows = np.flatnonzero(wanted == 1)
        return _numbers(column.take(pa.array(rows)), name, rows)
    given = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    wrong = np.flatnonzero(given != wanted)
    if len(wrong):
        row = int(wrong[0])
        raise ColumnError(f"{name!r} has {given[row]} numbers for {wanted[row]} negatives.", row)
    return _numbers(pc.list_flatten(column), name, np.repeat(np.arange(len(table)), wanted))


_WANTED_BY = {
    HARDNESS: "hardness_source is 'column'",
    NEGATIVE_HARDNESS: "hardness_source is 'column'",
    SCORE: "distill_source is 'column'",
    NEGATIVE_SCORE: "distill_source is 'column'",
}


def numbers_of(pairs: Sequence[Pair], columns: Sequence[str], most: int) -> dict[str, torch.Tensor]:
    """What a batch brings to a loss that takes numbers of the data.

    Args:
        pairs: B of them.
        columns: Which of `pos_hardness`, `neg_hardness`, `pos_score` and `neg_score` are needed.
        most: K; 0 where no pair has negatives.

    Returns:
        `document_hardness` `(B,)` and `negative_hardness` `(B, K)`; `positive_scores` `(B,)` and `negative_scores`
        `(B, K)`, where there are negatives; 0 past the last negative of a pair.

    Raises:
        ValueError: A row has none; the message names it. A row without negatives needs no score.
    """
    for pair in pairs:
        some = bool(pair.negatives)
        lacking = {
            HARDNESS: pair.hardness is None,
            NEGATIVE_HARDNESS: some and pair.negative_hardness is None,
            SCORE: some and pair.score is None,
            NEGATIVE_SCORE: some and pair.negative_scores is None,
        }
        for column in columns:
            if lacking[column]:
                raise ValueError(
                    f"{pair.source}, row {pair.row}: {_WANTED_BY[column]} and the row has no {column!r}; add the "
                    "column, or leave the task out."
                )
    found: dict[str, torch.Tensor] = {}
    if HARDNESS in columns:
        found["document_hardness"] = torch.tensor([pair.hardness for pair in pairs])
    if NEGATIVE_HARDNESS in columns and most:
        found["negative_hardness"] = _rows([pair.negative_hardness or () for pair in pairs], most)
    if SCORE in columns and most:
        found["positive_scores"] = torch.tensor([0.0 if pair.score is None else pair.score for pair in pairs])
    if NEGATIVE_SCORE in columns and most:
        found["negative_scores"] = _rows([pair.negative_scores or () for pair in pairs], most)
    return found


def _rows(rows: Sequence[Sequence[float]], most: int) -> torch.Tensor:
    return torch.tensor([[*row, *[0.0] * (most - len(row))] for row in rows])
