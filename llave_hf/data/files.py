"""Data files in a folder: which there are, which split they are of, and their rows as an Arrow table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DATA_SUFFIXES = (".parquet", ".jsonl", ".json")
_SHARD = re.compile(r"[-_.]?\d+-of-\d+.*$")  # train-00000-of-00002-1a2b.parquet is a file of the split "train"
_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
_TRAINING_SPLITS = ("original", "train")  # MMEB's paper split, and everybody's name for it


def data_files(folder: Path) -> dict[str, list[Path]]:
    """The files of rows in a folder, sorted, by split: the name up to the shard's number.

    Beside parquet and JSONL, a .json file is taken for a description of the data and left out.
    """
    splits: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(DATA_SUFFIXES) and not e.name.startswith("."))
    tables = [name for name in names if not name.endswith(".json")]
    for name in tables or names:
        if name not in _NOT_ROWS:
            splits.setdefault(_SHARD.sub("", os.path.splitext(name)[0]), []).append(folder / name)
    return splits


def pick_split(available: Iterable[str], split: str | None, where: str) -> str:
    """The split to read: the one asked for, else `original`, else `train`, else the only one there is.

    Raises:
        ValueError: It is not there, or it is not clear which.
    """
    names = sorted(available)
    wanted = [split] if split is not None else [name for name in _TRAINING_SPLITS if name in names] or names
    if wanted[0] not in names or (split is None and wanted == names and len(names) > 1):
        what = "no split given" if split is None else f"no split {split!r}"
        raise ValueError(f"{what} in {where}; there are {', '.join(map(repr, names))}: set `split` to one of them.")
    return wanted[0]


def read_rows(files: Iterable[Path]) -> tuple[pa.Table, list[int]]:
    """The rows of parquet, JSONL or JSON files one after the other, and how many come from each.

    Raises:
        ValueError: A file cannot be read; the message names it, and the line of a JSONL file.
    """
    tables = [_read_file(path) for path in files]
    rows = [len(table) for table in tables]
    try:
        return pa.concat_tables(tables, promote_options="permissive"), rows
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"{', '.join(map(str, files))} do not have the same columns ({error}); give them apart."
        ) from error


def _read_file(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        try:
            return pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read as parquet ({error}); the file is broken: replace it.") from error
    records = _read_json_lines(path) if path.suffix == ".jsonl" else _read_json(path)
    columns: dict[str, list[Any]] = {}
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}, row {number} is a {type(record).__name__}; each row must be an object.")
        for name in record.keys() - columns.keys():
            columns[name] = [None] * number
        for name, values in columns.items():
            values.append(record.get(name))
    return pa.table({name: _column(values, name, path) for name, values in columns.items()})


def _read_json_lines(path: Path) -> Iterable[Any]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number} is no JSON ({error}); correct it.") from error


def _read_json(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); for one object a line use the suffix .jsonl.") from error
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a list of objects.")
    return content


def _column(values: list[Any], name: str, path: Path) -> pa.Array:
    if any(isinstance(value, list) for value in values):  # a path here, a list of paths there
        values = [[value] if isinstance(value, str) else value for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path}, column {name!r} mixes types ({error}); use one type in all rows.") from error
