"""Data files in a folder: which there are, which split they are of, and their rows as an Arrow table."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
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


@contextlib.contextmanager
def parquet_errors(file: str | Path) -> Iterator[None]:
    """Names the file in what goes wrong while it is read.

    Raises:
        ValueError: It cannot be read as parquet.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = "check the connection" if "://" in str(file) else "the file is broken: replace it"
        raise ValueError(f"{file} cannot be read as parquet ({error}); {what}.") from error


def json_records(lines: Iterable[bytes], file: str | Path, first_line: int = 1) -> Iterator[Any]:
    """What the lines of a JSONL file hold; blank ones hold nothing.

    Raises:
        ValueError: A line is no JSON; the message names it.
    """
    for number, line in enumerate(lines, start=first_line):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:  # no JSON, or no UTF-8
                raise ValueError(f"{file}, line {number} is no JSON ({error}); correct it.") from error


def table_of_records(records: Iterable[Any], file: str | Path, first_row: int = 0) -> pa.Table:
    """Rows as an Arrow table, where a row may lack columns.

    Raises:
        ValueError: A record is no object, or a column mixes types.
    """
    columns: dict[str, list[Any]] = {}
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            found = type(record).__name__
            raise ValueError(f"{file}, row {first_row + number} is a {found}; each row must be an object.")
        for name in record.keys() - columns.keys():
            columns[name] = [None] * number
        for name, values in columns.items():
            values.append(record.get(name))
    return pa.table({name: _column(values, name, file) for name, values in columns.items()})


def _read_file(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        with parquet_errors(path):
            return pq.read_table(path, partitioning=None)
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            return table_of_records(json_records(lines, path), path)
    return table_of_records(_read_json(path), path)


def _read_json(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); for one object a line use the suffix .jsonl.") from error
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a list of objects.")
    return content


def _column(values: list[Any], name: str, file: str | Path) -> pa.Array:
    if any(isinstance(value, list) for value in values):  # a path here, a list of paths there
        values = [[value] if isinstance(value, str) else value for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{file}, column {name!r} mixes types ({error}); use one type in all rows.") from error
