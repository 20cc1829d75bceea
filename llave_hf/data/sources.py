"""Opens what `train_data` names: Hub ids, folders in MMEB's layout, folders saved by datasets, single files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa

from .files import DATA_SUFFIXES, data_files, pick_split, read_rows

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class SourceSpec:
    """One entry of `train_data`.

    Attributes:
        path: A Hub id; a folder with one subfolder a subset, or with the files of one subset; a folder written by
            `Dataset.save_to_disk`; a .parquet, .jsonl or .json file.
        subsets: Names of the subsets to read; None reads all.
        split: None reads `original` (MMEB's), else `train`, else the only one there is.
        weight: How often a row of this source is drawn, beside a row of another.
        max_samples: At most so many rows of each subset.
        media_root: What paths of pictures are relative to; None is the folder of the source itself.
        revision: Of a Hub data set.
    """

    path: str
    subsets: Sequence[str] | None = None
    split: str | None = None
    weight: float = 1.0
    max_samples: int | None = None
    media_root: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight of {self.path!r} is {self.weight}; it must be above 0: leave the source out.")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples of {self.path!r} is {self.max_samples}; it must be at least 1, or absent.")


@dataclass(frozen=True)
class Subset:
    """The rows of one subset as its files have them: one task."""

    name: str
    table: pa.Table
    files: tuple[tuple[str, int], ...]  # where the rows come from, and how many from each
    spec: SourceSpec

    def locate(self, row: int) -> str:
        """Where a row stands, for messages."""
        first, file = 0, ""
        for name, count in self.files:
            file = name
            if row < first + count:
                break
            first += count
        inside = f", its row {row - first}" if first else ""
        return f"row {row} of {self.name!r} ({file}{inside})"


def parse_specs(
    train_data: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]], **defaults: Any
) -> list[SourceSpec]:
    """`train_data` as a list of specifications; `defaults` hold where an entry does not say otherwise.

    Raises:
        ValueError: A key does not exist (the message names the nearest), `path` is absent, or there is no entry.
    """
    entries = [train_data] if isinstance(train_data, (str, os.PathLike, Mapping)) else list(train_data)
    if not entries:
        raise ValueError("train_data is empty; give a Hub id, a folder or a file.")
    known = [field.name for field in fields(SourceSpec)]
    specs = []
    for entry in entries:
        given = dict(entry) if isinstance(entry, Mapping) else {"path": os.fspath(entry)}
        for key in given:
            if key not in known:
                raise ValueError(f"train_data has no key {key!r}{suggest(key, known)}; there are {', '.join(known)}.")
        if not given.get("path"):
            raise ValueError(f"an entry of train_data has no `path` ({given}); give a Hub id, a folder or a file.")
        specs.append(SourceSpec(**{**defaults, **given}))
    return specs


def open_source(spec: SourceSpec) -> list[Subset]:
    """Reads the subsets that a specification names, in the order of their names (or as `subsets` has them).

    Raises:
        ValueError: It does not exist or cannot be read, or a subset or the split is not there.
    """
    path = Path(spec.path)
    if path.is_file():
        return _open_file(spec, path)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _open_saved(spec, path)
    if path.is_dir():
        return _open_folder(spec, path)
    if path.suffix in DATA_SUFFIXES or not _HUB_ID.fullmatch(spec.path):
        raise ValueError(f"train_data {spec.path!r} does not exist; give a Hub id, a folder or a file.")
    return _open_hub(spec)


def suggest(name: str, known: Sequence[str]) -> str:
    """A question that names the nearest of the known names, or nothing."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _choose_subsets(spec: SourceSpec, available: Sequence[str]) -> list[str]:
    if spec.subsets is None:
        return list(available)
    for name in spec.subsets:
        if name not in available:
            raise ValueError(
                f"{spec.path!r} has no subset {name!r}{suggest(name, available)}; there are {', '.join(available)}."
            )
    return list(spec.subsets)


def _from_files(spec: SourceSpec, name: str, files: Sequence[Path], root: Path) -> Subset:
    table, rows = read_rows(files)
    spec = replace(spec, media_root=spec.media_root or str(root))
    return Subset(name, table, tuple(zip(map(str, files), rows, strict=True)), spec)


def _open_file(spec: SourceSpec, path: Path) -> list[Subset]:
    if path.suffix not in DATA_SUFFIXES:
        raise ValueError(f"train_data {spec.path!r} is no {', '.join(DATA_SUFFIXES)} file; convert it.")
    _choose_subsets(spec, [path.stem])
    return [_from_files(spec, path.stem, [path], path.parent)]


def _open_folder(spec: SourceSpec, path: Path) -> list[Subset]:
    own = data_files(path)
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    available = {child.name: splits for child in folders if (splits := data_files(child))}
    if not own and not available:
        raise ValueError(
            f"train_data {spec.path!r} has no {', '.join(DATA_SUFFIXES)} file, nor has a folder in it; "
            "give the folder whose subfolders are the subsets."
        )
    if own and available:
        raise ValueError(
            f"train_data {spec.path!r} has files of rows ({min(own.values())[0].name}) and folders with such files "
            f"({min(available)}); name the file, or move it."
        )
    if own:
        available = {path.resolve().name: own}
    subsets = []
    for name in _choose_subsets(spec, list(available)):
        splits = available[name]
        split = pick_split(splits, spec.split, f"{spec.path!r}, subset {name!r}")
        subsets.append(_from_files(spec, name, splits[split], path))
    return subsets


def _open_saved(spec: SourceSpec, path: Path) -> list[Subset]:
    import datasets

    saved = datasets.load_from_disk(str(path))
    _choose_subsets(spec, [path.resolve().name])
    if isinstance(saved, datasets.DatasetDict):
        saved = saved[pick_split(saved, spec.split, str(path))]
    spec = replace(spec, media_root=spec.media_root or str(path))
    return [Subset(path.resolve().name, _arrow(saved), ((str(path), len(saved)),), spec)]


def _open_hub(spec: SourceSpec) -> list[Subset]:
    import datasets

    subsets = []
    try:
        available = datasets.get_dataset_config_names(spec.path, revision=spec.revision)
        for name in _choose_subsets(spec, available):
            splits = datasets.get_dataset_split_names(spec.path, name, revision=spec.revision)
            split = pick_split(splits, spec.split, f"{spec.path}/{name}")
            rows = datasets.load_dataset(spec.path, name, split=split, revision=spec.revision)
            subsets.append(Subset(name, _arrow(rows), ((f"{spec.path}/{name}, {split}", len(rows)),), spec))
    except OSError as error:  # the Hub's errors, no connection, data set not found: all of them are OSErrors
        raise ValueError(
            f"train_data {spec.path!r} is no folder or file here, and could not be read from the Hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); check the name and the connection, or download "
            "the data and give its folder."
        ) from error
    return subsets


def _arrow(rows: Any) -> pa.Table:
    return rows.with_format("arrow")[:]
