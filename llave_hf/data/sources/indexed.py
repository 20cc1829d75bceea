"""Opens what `train_data` names: Hub ids, folders in MMEB's layout, folders saved by datasets, single files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from llave_hf.data.stored.columns import fields_of, pictures_of, with_places
from llave_hf.data.stored.reading import arrow_table

from .files import DATA_SUFFIXES, data_files, expand, pattern_name, pick_split, read_rows
from .specs import SourceSpec, suggest
from .texts import check_texts

_EVALUATIONS = {"tiger-lab/mmeb-v2": "mmeb-v2", "tiger-lab/mmeb-eval": "mmeb"}  # the benchmarks that they are for
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class SubsetFiles:
    """Where the rows of one subset stand: one task."""

    name: str
    files: tuple[tuple[str, int], ...]  # where the rows come from, and how many from each
    spec: SourceSpec

    def where(self, row: int = 0) -> str:
        """The subset and the file that holds a row, for messages."""
        return f"{self.name!r} ({self._place(row)[0]})"

    def locate(self, row: int) -> str:
        """Where a row stands, for messages."""
        file, first = self._place(row)
        inside = f", its row {row - first}" if first else ""
        return f"row {row} of {self.name!r} ({file}{inside})"

    def _place(self, row: int) -> tuple[str, int]:
        first, file = 0, ""
        for name, count in self.files:
            file = name
            if row < first + count:
                break
            first += count
        return file, first


@dataclass(frozen=True)
class Subset(SubsetFiles):
    """The rows of one subset as its files have them.

    Attributes:
        table: The rows; of described sources, the columns that are needed.
        fields: All columns that there are.
    """

    table: pa.Table
    fields: pa.Schema


@dataclass(frozen=True)
class FoundFiles:
    """The files of a subset that lie here, and the folder that they were found in."""

    name: str
    files: tuple[Path, ...]
    root: Path


def open_source(spec: SourceSpec) -> list[Subset]:
    """Reads the subsets that a specification names, in the order of their names (or as `subsets` has them).

    Raises:
        ValueError: It does not exist or cannot be read, or a subset or the split is not there.
    """
    if is_saved(spec):
        name, saved = open_saved(spec)
        files = ((spec.path, len(saved)),)
        return [Subset(name, files, with_media_root(spec, spec.path), *_arrow(saved, spec))]
    found = find_files(spec)
    return _open_hub(spec) if found is None else [_read_files(spec, subset) for subset in found]


def is_saved(spec: SourceSpec) -> bool:
    """Whether a source is a folder that `Dataset.save_to_disk` wrote."""
    return any((Path(spec.path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def find_files(spec: SourceSpec) -> list[FoundFiles] | None:
    """The files of each subset of a source that lies here; None where it can only be a Hub id.

    Raises:
        ValueError: It does not exist, or a subset or the split is not there.
    """
    path = Path(spec.path)
    _refuse_evaluation(spec)
    several = expand(spec.path)
    if several is not None:
        for file in several:
            _check_suffix(spec, file)
        name = pattern_name(spec.path)
        _choose_subsets(spec, [name])
        return [FoundFiles(name, tuple(several), several[0].parent)]
    if path.is_file():
        _check_suffix(spec, path)
        _choose_subsets(spec, [path.stem])
        return [FoundFiles(path.stem, (path,), path.parent)]
    if path.is_dir():
        return _find_in_folder(spec, path)
    if not could_be_hub_id(spec.path):
        raise ValueError(f"train_data {spec.path!r} does not exist; give a Hub id, a folder or a file.")
    return None


def could_be_hub_id(path: str) -> bool:
    """Whether a source that is not here may be on the Hub."""
    return Path(path).suffix not in DATA_SUFFIXES and _HUB_ID.fullmatch(path) is not None


def _check_suffix(spec: SourceSpec, file: Path) -> None:
    if file.suffix not in DATA_SUFFIXES:
        how = "unpack it" if file.suffixes[-2:-1] == [".tar"] or file.suffix == ".tgz" else "convert it"
        raise ValueError(f"train_data {str(file)!r} is no {', '.join(DATA_SUFFIXES)} file; {how}.")


def _refuse_evaluation(spec: SourceSpec) -> None:
    benchmark = _EVALUATIONS.get(spec.path.rstrip("/").lower())
    if benchmark is not None:
        raise ValueError(
            f"train_data {spec.path!r} is a repository of evaluation data, not of training rows; evaluate on it with "
            f"`eval_benchmark: {benchmark}`, and train on TIGER-Lab/MMEB-train, for example."
        )


def open_saved(spec: SourceSpec) -> tuple[str, Any]:
    """The name of the subset in a folder saved by datasets, and its rows, mapped into memory."""
    import datasets

    path = Path(spec.path)
    saved = datasets.load_from_disk(str(path))
    name = path.resolve().name
    _choose_subsets(spec, [name])
    if isinstance(saved, datasets.DatasetDict):
        saved = saved[pick_split(saved, spec.split, str(path))]
    return name, saved


@contextlib.contextmanager
def hub_errors(spec: SourceSpec) -> Iterator[None]:
    """Says what to do where the Hub cannot be read.

    Raises:
        ValueError: Nothing was found, or there is no connection.
    """
    try:
        yield
    except OSError as error:  # the Hub's errors, no connection, data set not found: all of them are OSErrors
        raise ValueError(
            f"train_data {spec.path!r} is no folder or file here, and could not be read from the Hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); check the name and the connection, or download "
            "the data and give its folder."
        ) from error


def hub_splits(spec: SourceSpec, *, all_splits: bool = False) -> Iterator[tuple[str, str]]:
    """Each subset of a Hub data set that is asked for, and its split.

    Args:
        all_splits: Whether a specification without a split asks for each of them.
    """
    import datasets

    available = datasets.get_dataset_config_names(spec.path, revision=spec.revision)
    for name in _choose_subsets(spec, available):
        splits = datasets.get_dataset_split_names(spec.path, name, revision=spec.revision)
        if all_splits and spec.split is None:
            yield from ((name, split) for split in splits)
        else:
            yield name, pick_split(splits, spec.split, f"{spec.path}/{name}")


def with_media_root(spec: SourceSpec, root: str | Path) -> SourceSpec:
    """The specification, with the source's own folder where it names no other."""
    return replace(spec, media_root=spec.media_root or str(root))


def _choose_subsets(spec: SourceSpec, available: Sequence[str]) -> list[str]:
    if spec.subsets is None:
        return list(available)
    for name in spec.subsets:
        if name not in available:
            raise ValueError(
                f"{spec.path!r} has no subset {name!r}{suggest(name, available)}; there are {', '.join(available)}."
            )
    return list(spec.subsets)


def _read_files(spec: SourceSpec, found: FoundFiles) -> Subset:
    rows = read_rows(found.files, wanted_columns(spec))
    files = tuple(zip(map(str, found.files), rows.counts, strict=True))
    return Subset(found.name, files, with_media_root(spec, found.root), rows.table, rows.fields)


def _find_in_folder(spec: SourceSpec, path: Path) -> list[FoundFiles]:
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
    found = []
    for name in _choose_subsets(spec, list(available)):
        split = pick_split(available[name], spec.split, f"{spec.path!r}, subset {name!r}")
        found.append(FoundFiles(name, tuple(available[name][split]), path))
    return found


def _open_hub(spec: SourceSpec) -> list[Subset]:
    import datasets

    subsets = []
    with hub_errors(spec):
        for name, split in hub_splits(spec):
            rows = datasets.load_dataset(spec.path, name, split=split, revision=spec.revision)
            files = ((f"{spec.path}/{name}, {split}", len(rows)),)
            subsets.append(Subset(name, files, spec, *_arrow(rows, spec)))
    return subsets


def _arrow(rows: Any, spec: SourceSpec) -> tuple[pa.Table, pa.Schema]:
    """The rows of a data set of `datasets`, and all the fields that they have."""
    schema = rows.features.arrow_schema
    wanted = wanted_columns(spec)
    pictures = [name for name in pictures_of(schema) if wanted is None or name in wanted]
    others = [name for name in schema.names if name not in pictures_of(schema) and (wanted is None or name in wanted)]
    table = check_texts(rows.select_columns(others).with_format("arrow")[:], spec.path) if others else None
    if pictures:
        places = picture_places(rows if rows._indices is None else rows.flatten_indices(), pictures)
        table = places if table is None else pa.table({**_columns(table), **_columns(places)})
    return pa.table({}) if table is None else table.replace_schema_metadata(), fields_of(schema)


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def picture_places(
    rows: Any, columns: Sequence[str], start: int = 0, stop: int | None = None, *, with_digests: bool = False
) -> pa.Table:
    """Where the pictures of a data set of `datasets` stand in its files, which are mapped into memory.

    Args:
        rows: The data set, without indices of its own.
        columns: Those of pictures.
        start, stop: Which rows; None: to the end.
        with_digests: Whether to read the pictures' bytes for digests of them.
    """
    tables, first = [], 0
    for file in (one["filename"] for one in rows.cache_files):
        table = arrow_table(file).select(list(columns))
        own = slice(max(start - first, 0), len(table) if stop is None else min(stop - first, len(table)))
        if own.start < own.stop:
            part = table.slice(own.start, own.stop - own.start)
            tables.append(with_places(part, file, own.start, with_digests=with_digests))
        first += len(table)
    return pa.concat_tables(tables)


def wanted_columns(spec: SourceSpec) -> frozenset[str] | None:
    """The columns to read; None: all, which a run over rows of known names may write again."""
    return None if spec.description() is None else spec.columns()
