"""What stands in a mined row: what it had, its negatives, and what was found of them."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from llave_hf.data.described.names import JUDGEMENTS, KNOWN, NEGATIVE_HARDNESS, NEGATIVE_SCORE, SCORE
from llave_hf.data.rows.columns import SideColumns
from llave_hf.data.rows.tasks import TaskRows

from .judging import Judged

PathOf = Callable[[str], str]


def _same(path: str) -> str:
    return path


def mined_columns(
    task: TaskRows,
    negatives: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
    judged: Judged | None = None,
    path_of: PathOf = _same,
) -> list[dict[str, Any]]:
    """MMEB's columns `neg_text`, `neg_image_path` and `neg_video_path` of each row, a list entry a negative, and
    `neg_hardness`, the score of each; with a judge, `pos_score` and `neg_score` too.

    The row's own negatives stay, before the mined ones.

    Args:
        task: The rows.
        negatives: For each row, numbers of rows whose positive is a negative of it.
        scores: For each row, the cosines of all its negatives, its own first.
        judged: What a judge says.
        path_of: Gives the path that is written for one in the rows.
    """
    columns: list[dict[str, Any]] = []
    for index, (chosen, said) in enumerate(zip(negatives, scores, strict=True)):
        entries = [_raw(task.positive, number, path_of) for number in chosen]
        if task.negatives is not None:
            own = range(int(task.negative_offsets[index]), int(task.negative_offsets[index + 1]))
            entries = [_raw(task.negatives, number, path_of) for number in own] + entries
        texts, images, videos = ([entry[part] for entry in entries] for part in range(3))
        hardness = [round(score, 6) for score in said]
        columns.append(
            {"neg_text": texts, "neg_image_path": images, "neg_video_path": videos, NEGATIVE_HARDNESS: hardness}
        )
    if judged is not None:
        for row, positive, of_negatives in zip(columns, judged.positives.tolist(), judged.negatives, strict=True):
            row |= {SCORE: round(positive, 6), NEGATIVE_SCORE: [round(score, 6) for score in of_negatives]}
    if all(len(images) <= 1 for row in columns for images in row["neg_image_path"]):
        for row in columns:  # one path each: MMEB's plain form
            row["neg_image_path"] = [images[0] if images else "" for images in row["neg_image_path"]]
    if not any(video for row in columns for video in row["neg_video_path"]):
        columns = [{key: value for key, value in row.items() if key != "neg_video_path"} for row in columns]
    return columns


def known_columns(task: TaskRows, index: int, path_of: PathOf = _same) -> dict[str, Any]:
    """A row's query and positive in MMEB's columns."""
    row: dict[str, Any] = {}
    for side, role, text in ((task.query, "qry", "qry"), (task.positive, "pos", "pos_text")):
        written, images, video = _raw(side, index, path_of)
        row |= {text: written, f"{role}_image_path": images, f"{role}_video_path": video}
    return row


def _raw(side: SideColumns, number: int, path_of: PathOf) -> tuple[str, list[str], str]:
    images = [path_of(path) for path in side.images[number].as_py()]
    return side.text[number].as_py(), images, side.video[number].as_py()


def beside_the_sides(names: Sequence[str], *, described: bool) -> list[str]:
    """The columns that stay as they are where query, positive and negatives are written under MMEB's names.

    Args:
        names: All columns of the rows.
        described: Whether a recipe says what they mean: then only what is read by its name stays, as any other column
            may have a name that means something else in MMEB.
    """
    return [name for name in names if name in JUDGEMENTS or not (described or name in KNOWN)]


def with_bytes(schema: pa.Schema) -> list[str]:
    """The columns that hold bytes at any depth, which a line of JSON cannot hold."""
    return [field.name for field in schema if _holds_bytes(field.type)]


def _holds_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    kinds = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    if any(is_kind(kind) for is_kind in kinds):
        return True
    return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))


def json_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON. Dates and times become texts as ISO 8601 has them, decimal numbers their digits."""
    return json.dumps(row, ensure_ascii=False, default=_as_text) + "\n"


def _as_text(value: object) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal | uuid.UUID):
        return str(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}, which a line of JSON cannot hold.")
