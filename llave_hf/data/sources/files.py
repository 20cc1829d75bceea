"""Data files in a folder: which there are, which split they are of, and their rows as an Arrow table."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.data.described.names import KNOWN
from llave_hf.data.stored.columns import fields_of, parquet_places, pictures_of, with_places

from .archives import read_archive
from .texts import check_texts, first_fault, no_half_characters, read_csv, utf8_lines, utf8_text

DATA_SUFFIXES = (".parquet", ".jsonl", ".tar", ".csv", ".json")
_BESIDE = (".csv", ".json")  # beside files of the others, they describe the data
_SHARD = re.compile(r"[-_.]?\d+-of-\d+.*$")  # train-00000-of-00002-1a2b.parquet is a file of the split "train"
_NUMBER = re.compile(r"[-_.]?\d+$")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
_TRAINING_SPLITS = ("original", "train")  # MMEB's paper split, and everybody's name for it


def data_files(folder: Path) -> dict[str, list[Path]]:
    """The files of rows in a folder, sorted, by split: the name up to the shard's number.

    Beside other files of rows, a .csv or .json file is taken for a description of the data and left out.
    """
    splits: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(DATA_SUFFIXES) and not e.name.startswith("."))
    tables = [name for name in names if not name.endswith(_BESIDE)]
    tables = tables or [name for name in names if not name.endswith(".json")]
    for name in tables or names:
        if name not in _NOT_ROWS:
            splits.setdefault(_split(name), []).append(folder / name)
    return splits


def _split(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    if suffix == ".tar":  # 00000.tar, train-00001.tar
        return _NUMBER.sub("", stem) or "train"
    return _SHARD.sub("", stem)


def is_pattern(path: str) -> bool:
    """Whether a path is written as a pattern of several."""
    return bool(_RANGE.search(path)) or glob.has_magic(path)


def expand(pattern: str) -> list[Path] | None:
    """The files of `shards/{00000..00099}.tar` or `shards/*.parquet`, sorted; None where it is no pattern.

    Raises:
        ValueError: A file of a range is not there, or none is.
    """
    if not is_pattern(pattern) or Path(pattern).exists():
        return None
    paths = _ranges(pattern)
    if glob.has_magic(pattern):
        files = sorted(Path(found) for path in paths for found in glob.glob(path))
        if not files:
            raise ValueError(f"train_data {pattern!r} matches no file; correct the pattern.")
        return files
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"train_data {pattern!r}: {missing[0]}{more} does not exist; correct the range.")
    return [Path(path) for path in paths]


def _ranges(pattern: str) -> list[str]:
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    width = len(first) if first.startswith("0") else 0
    numbers = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return [rest for number in numbers for rest in _ranges(pattern[: found.start()] + number + pattern[found.end() :])]


def pattern_name(pattern: str) -> str:
    """What a subset is called that a pattern names: what the names of its files share, else their folder's."""
    path = Path(pattern)
    shared = re.sub(r"[*?]|\[.*?\]", "", _RANGE.sub("", path.stem)).strip("-_.")
    return shared or path.parent.resolve().name


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


@dataclass(frozen=True)
class Rows:
    """The rows of some files.

    Attributes:
        table: One after the other; pictures as places.
        counts: How many come from each file.
        fields: All columns that the files have, whether or not they are read.
    """

    table: pa.Table
    counts: list[int]
    fields: pa.Schema


def read_rows(files: Iterable[Path], wanted: Collection[str] | None = None) -> Rows:
    """The rows of parquet, JSONL, JSON, CSV or tar files.

    Args:
        files: What to read.
        wanted: Columns to read where they are there; None: all (of archives, those with known names).

    Raises:
        ValueError: A file cannot be read; the message names it, and the line of a JSONL file.
    """
    read = [_read_file(path, wanted) for path in files]
    try:
        table = pa.concat_tables([table for table, _ in read], promote_options="permissive")
        fields = pa.unify_schemas([fields for _, fields in read], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"{', '.join(map(str, files))} do not have the same columns ({error}); give them apart."
        ) from error
    return Rows(table, [len(table) for table, _ in read], fields)


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
        ValueError: A line is no JSON or not in UTF-8; the message names it.
    """
    for number, line in enumerate(utf8_lines(lines, file, first_line), start=first_line):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
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
    made = {name: _column(values, name, file, first_row) for name, values in columns.items()}
    return with_places(pa.table(made), str(file), first_row)


def _read_file(path: Path, wanted: Collection[str] | None) -> tuple[pa.Table, pa.Schema]:
    """A file's rows, and all the fields that they have."""
    if path.suffix == ".parquet":
        return _read_parquet(path, wanted)
    if path.suffix == ".tar":
        return read_archive(str(path), KNOWN if wanted is None else wanted)
    if path.suffix == ".csv":
        table = read_csv(path)
    elif path.suffix == ".jsonl":
        with path.open("rb") as lines:
            table = table_of_records(json_records(lines, path), path)
    else:
        table = table_of_records(_read_json(path), path)
    return table, table.schema


def _read_parquet(path: Path, wanted: Collection[str] | None) -> tuple[pa.Table, pa.Schema]:
    """Of pictures only where they stand."""
    with parquet_errors(path), path.open("rb") as handle:
        opened = pq.ParquetFile(handle)
        fields = fields_of(opened.schema_arrow)
        pictures = pictures_of(opened.schema_arrow)
        read = [name for name in fields.names if wanted is None or name in wanted]
        table = opened.read(columns=[name for name in read if name not in pictures])
        for column in pictures:
            if column in read:
                table = table.append_column(column, parquet_places(opened, str(path), column))
    return check_texts(table.replace_schema_metadata(), str(path)), fields


def _read_json(path: Path) -> list[Any]:
    try:
        content = json.loads(utf8_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); for one object a line use the suffix .jsonl.") from error
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a list of objects.")
    return content


def _column(values: list[Any], name: str, file: str | Path, first_row: int) -> pa.Array:
    if any(isinstance(value, list) for value in values):  # a path here, a list of paths there
        values = [[value] if isinstance(value, str) else value for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{file}, column {name!r} mixes types ({error}); use one type in all rows.") from error
    except UnicodeEncodeError as error:
        row = first_fault(values)
        raise ValueError(no_half_characters(f"{file}, row {first_row + row}", name, values[row])) from error
