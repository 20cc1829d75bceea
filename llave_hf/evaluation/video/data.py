"""Reads MSR-VTT 1k-A and MSVD: CLIP4Clip's files, or the rows of the Hub's VLM2Vec/MSR-VTT and VLM2Vec/MSVD.

CLIP4Clip MSR-VTT   MSRVTT_JSFUSION_test.csv: a row a video, columns `video_id`, `sentence`
CLIP4Clip MSVD      test_list.txt: a video id a line; raw-captions.json: id -> captions, texts or lists of words
Hub                 parquet, .json or .jsonl: rows with `video_id`, `caption` (a text or a list), maybe `video`
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llave_hf.evaluation.benchmark.fields import BenchmarkError

from .files import find_caption_files, find_videos

PICKLE_REFUSED = (
    "{file} is a pickle, which could run any code when it is opened: give the captions as JSON instead, an object of "
    "video id -> list of captions named raw-captions.json beside it, or the parquet of the Hub's VLM2Vec/MSVD."
)


@dataclass(frozen=True)
class Video:
    """A video of the test and its captions, in the order of the file; `place` says where these stand."""

    name: str
    path: Path
    captions: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class VideoSet:
    """The videos of a test; `revision` is a digest of the files that name them and their captions."""

    dataset: str
    videos: tuple[Video, ...]
    revision: str


@dataclass(frozen=True)
class _Row:
    name: str
    captions: tuple[str, ...]
    place: str


def read_video_set(dataset: str, folder: Path, captions: Path | None = None, videos: Path | None = None) -> VideoSet:
    """Read the captions of a test and find its videos, each of which can be opened.

    Args:
        dataset: `msrvtt-1ka` or `msvd`.
        folder: where captions and videos are looked for, at any depth.
        captions: the caption file, where it is not found by its name.
        videos: the folder of the videos; None: `folder`.

    Raises:
        BenchmarkError: captions or videos that cannot be used; the message names file and row.
    """
    for path in filter(None, (folder, videos)):
        if not path.is_dir():
            raise BenchmarkError(f"The folder {path} does not exist: check --data and --videos.")
    files = [captions] if captions else find_caption_files(dataset, folder)
    rows: dict[str, _Row] = {}
    for file in files:
        for row in _read_rows(file):
            if row.name in rows:
                raise BenchmarkError(f"{row.place}: video {row.name} is already that of {rows[row.name].place}.")
            if dataset == "msrvtt-1ka" and len(row.captions) > 1:
                raise BenchmarkError(
                    f"{row.place}: {len(row.captions)} captions; MSR-VTT 1k-A has one a video: give test_1k."
                )
            rows[row.name] = row
    if not rows:
        raise BenchmarkError(f"{files[0]} names no video: give a complete file.")
    paths = find_videos({row.name: row.place for row in rows.values()}, videos or folder)
    found = tuple(Video(row.name, paths[row.name], row.captions, row.place) for row in rows.values())
    return VideoSet(dataset, found, _digest([*files, *filter(Path.is_file, [files[0].parent / "test_list.txt"])]))


def _read_rows(file: Path) -> Iterator[_Row]:
    if not file.is_file():
        raise BenchmarkError(f"There is no caption file {file}: check --captions.")
    suffix = file.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise BenchmarkError(PICKLE_REFUSED.format(file=file))
    if suffix not in (".csv", ".json", ".jsonl", ".parquet"):
        raise BenchmarkError(f"{file}: captions are read from .csv, .json, .jsonl or .parquet files.")
    if suffix == ".parquet":
        yield from map(_hub_row, _parquet(file), _places(file, "row"))
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
        if suffix == ".csv":
            yield from map(_csv_row, csv.DictReader(io.StringIO(text, newline="")), _places(file, "row"))
        elif suffix == ".jsonl":
            lines = (json.loads(line) for line in text.split("\n") if line.strip())
            yield from map(_hub_row, lines, _places(file, "row"))
        elif isinstance(content := json.loads(text), dict):
            yield from _clip4clip_msvd(content, file)
        elif isinstance(content, list):
            yield from map(_hub_row, content, _places(file, "row"))
        else:
            raise BenchmarkError(f"{file} must hold an object or a list of rows, not {content!r:.80}.")
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
        raise BenchmarkError(f"{file} cannot be read as {suffix[1:]}: {error}.") from error


def _clip4clip_msvd(captions: Mapping[str, Any], file: Path) -> Iterator[_Row]:
    """The videos of test_list.txt beside the file, in its order: the file has those of training, too."""
    listed = file.parent / "test_list.txt"
    if not listed.is_file():
        raise BenchmarkError(f"{listed} is missing: it says which videos of {file.name} are the test's; put it there.")
    try:
        lines = listed.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{listed} is no text in UTF-8: {error}.") from error
    seen: dict[str, str] = {}
    for place, line in zip(_places(listed, "line", 1), lines, strict=False):
        if name := line.strip():
            if name not in captions:
                raise BenchmarkError(f"{place}: {file.name} has no captions of {name}: complete it.")
            if seen.setdefault(name, place) != place:
                raise BenchmarkError(f"{place}: {name} stands in {seen[name]} already: leave one.")
            yield _Row(name, _captions(captions[name], f"{file}, {name}"), f"{file}, {name}")


def _csv_row(row: Mapping[str, Any], place: str) -> _Row:
    return _Row(_text(row, "video_id", place), _captions(_text(row, "sentence", place), place), place)


def _hub_row(row: Any, place: str) -> _Row:
    if not isinstance(row, Mapping):
        raise BenchmarkError(f"{place} must be an object of columns, not {row!r:.80}.")
    name = PurePosixPath(_text(row, "video", place)).stem if row.get("video") else _text(row, "video_id", place)
    return _Row(name, _captions(row.get("caption"), f"{place}: caption"), place)


def _captions(value: Any, where: str) -> tuple[str, ...]:
    """A text, a list of texts, or a list of lists of words."""
    entries = value if isinstance(value, list) else [value]
    texts = tuple(" ".join(map(str, entry)) if isinstance(entry, list) else entry for entry in entries)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BenchmarkError(f"{where}: captions must be a text or a list of texts, none empty, not {value!r:.80}.")
    return texts


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise BenchmarkError(f"{place}: column {column!r} must hold a text, not {value!r:.80}: check the file.")
    return value


def _places(file: Path, kind: str, first: int = 0) -> Iterator[str]:
    """Names of a file's rows, from 0."""
    number = first
    while True:
        yield f"{file}, {kind} {number}"
        number += 1


def _parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(f"{file} cannot be read as parquet: {error}. Copy the file anew.") from error
    return table.select([name for name in ("video_id", "video", "caption") if name in table.column_names]).to_pylist()


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}"
