"""`format: mmeb`, the default: `qry_text, qry_img_path, tgt_text[], tgt_img_path[]`, prompts included.

The answer is candidate 0. Extensions: a picture path may be a list (several pictures), a data URI, or the picture
itself (bytes, or the Hub's structure of `bytes` and `path`); the optional columns `qry_video_path` and
`tgt_video_path[]` name videos. No other file knows the words qry and tgt of these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llave_hf.evaluation.benchmark.fields import BenchmarkError, Settings
from llave_hf.evaluation.benchmark.pictures import PictureError, is_picture, store_picture
from llave_hf.evaluation.benchmark.raw import EvalRow, RawInput, TaskRows

from .base import Format, Tables

REQUIRED_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")


@dataclass(frozen=True)
class MmebFormat(Format):
    """See :func:`parse_row`."""

    @classmethod
    def from_settings(cls, settings: Settings) -> MmebFormat:
        """There is nothing to set."""
        return cls()

    def read(self, tables: Tables) -> TaskRows:
        """The rows as they are."""
        return TaskRows(parse_row(row, place) for place, row in tables.rows())


def parse_row(row: Mapping[str, Any], where: str) -> EvalRow:
    """Read one row.

    Args:
        where: subset and row, for messages.

    Raises:
        BenchmarkError: a column is missing or holds something else than it should, the lists differ in length, or the
            query, the answer or the whole list of candidates is empty.
    """
    for column in REQUIRED_COLUMNS:
        if column not in row:
            raise BenchmarkError(
                f"{where} lacks the column {column!r} (it has {', '.join(map(str, row))}): rows must be in MMEB's "
                f"evaluation schema, {', '.join(REQUIRED_COLUMNS)}."
            )
    texts = _list(row["tgt_text"], f"{where}: tgt_text")
    if not texts:
        raise BenchmarkError(f"{where}: tgt_text is empty: a query needs candidates, the answer first.")
    images = _side_list(row, "tgt_img_path", len(texts), where)
    videos = _side_list(row, "tgt_video_path", len(texts), where)
    query = _side(row["qry_text"], row["qry_img_path"], row.get("qry_video_path"), "qry", where)
    candidates = [_side(*parts, "tgt", where) for parts in zip(texts, images, videos, strict=True)]
    for side, name in ((query, "query"), (candidates[0], "answer (candidate 0)")):
        if side.empty:
            raise BenchmarkError(f"{where}: the {name} has no text, picture or video: remove the row or fill it.")
    return EvalRow(query, candidates, place=where)


def _side_list(row: Mapping[str, Any], column: str, length: int, where: str) -> list[Any]:
    """The column, or as many empty entries where it is missing or null."""
    value = row.get(column)
    if value is None:
        return [""] * length
    values = _list(value, f"{where}: {column}")
    if len(values) != length:
        raise BenchmarkError(
            f"{where}: {column} has {len(values)} entries, tgt_text {length}: one for each candidate is needed."
        )
    return values


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BenchmarkError(
            f"{where} must be a list with one entry a candidate (the answer first), not {value!r:.80}."
        )
    return value


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise BenchmarkError(f"{where} must be text, not {value!r:.80}.")


def _side(text: Any, images: Any, video: Any, side: str, where: str) -> RawInput:
    paths, stored = _pictures(images, f"{where}: {side}_img_path")
    return RawInput(
        _text(text, f"{where}: {side}_text"), paths, _text(video, f"{where}: {side}_video_path"), stored=stored
    )


def _pictures(value: Any, where: str) -> tuple[tuple[str, ...], bool]:
    """Paths, and whether they lie in the picture store: where the row has the pictures themselves."""
    paths, kept = [], set()
    for entry in value if isinstance(value, list) else [value]:
        try:
            path, stored = store_picture(entry) if is_picture(entry) else (_text(entry, where), False)
        except PictureError as error:
            raise BenchmarkError(f"{where}: {error}") from error
        if path:
            paths.append(path)
            kept.add(stored)
    if len(kept) > 1:
        raise BenchmarkError(f"{where} has pictures and paths of pictures: give one kind in a list.")
    return tuple(paths), kept == {True}
