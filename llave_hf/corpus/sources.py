"""What a corpus is: files of rows, a folder saved by datasets, a data set of the Hub, or a folder of media."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from llave_hf.data.media_files import File, list_files
from llave_hf.data.sources.files import data_files, is_pattern, read_rows
from llave_hf.data.sources.indexed import find_files, hub_errors, is_saved, open_saved
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.data.streaming.sources import hub_files
from llave_hf.errors import UserError
from llave_hf.model.media_llave import IMAGE_SUFFIXES, VIDEO_SUFFIXES

FILES, SAVED, MEDIA = "files", "saved", "media"


@dataclass(frozen=True)
class Source:
    """A corpus, before its rows are read.

    Attributes:
        kind: `files` of rows, a folder `saved` by datasets, or a folder of `media`.
        files: Their names, and the paths or addresses by which they are opened.
        stamps: By name, what changes with a file: size and time, or the commit of a data set of the Hub.
        media_root: What paths of media in the rows are relative to; None: the caller vouches for them.
        listing: Of a folder of media, what lies in it.
        left_out: How many files of such a folder are none of `listing`, by reason.
        rows: Of a saved folder, the `datasets.Dataset`.
    """

    kind: str
    files: dict[str, str]
    stamps: dict[str, str]
    media_root: str | None
    listing: tuple[File, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    rows: Any = None


def open_source(
    path: str,
    *,
    split: str | None = None,
    subsets: Sequence[str] | None = None,
    revision: str | None = None,
    media_root: str | None = None,
) -> Source:
    """Finds the files of a corpus.

    Args:
        path: A file (.parquet, .jsonl, .json, .csv, .tar), a pattern of such, a folder with them, a folder saved by
            datasets, a folder of texts, pictures and videos, or a Hub id.
        split, subsets: Only these; None: all of them.
        revision, media_root: As in a recipe's `train_data`.

    Raises:
        UserError: It is not there, or holds nothing that can be embedded.
    """
    spec = SourceSpec(path=path, split=split, subsets=subsets, revision=revision, media_root=media_root)
    try:
        if is_saved(spec):
            return _saved(spec)
        rows = _rows_in_folder(Path(path)) if os.path.isdir(path) and not is_pattern(path) else None
        if rows is not None and not rows:
            return _media(Path(path), media_root)
        if rows is not None and split is None and subsets is None:
            return _files(rows, Path(path), media_root)
        found = find_files(spec)
        if found is None:
            return _hub(spec)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error).replace("train_data ", "the corpus ", 1)) from error
    return _files([file for one in found for file in one.files], found[0].root, media_root)


def _files(files: Sequence[Path], root: Path, media_root: str | None) -> Source:
    paths = {file.relative_to(root).as_posix(): str(file) for file in files}
    stamps = {name: _stamp(file) for name, file in paths.items()}
    return Source(FILES, paths, stamps, media_root or str(root))


def _rows_in_folder(folder: Path) -> list[Path]:
    """The files of rows in a folder and in those in it, of all splits.

    Where there are but .csv and .json files, and media beside them, these are what is to be embedded.
    """
    folders = [folder, *sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))]
    files = [file for one in folders for split in data_files(one).values() for file in split]
    suffixes = {file.suffix.lower() for one in folders for file in one.iterdir()}
    only_descriptions = all(file.suffix in (".csv", ".json") for file in files)
    return [] if only_descriptions and suffixes & (IMAGE_SUFFIXES | VIDEO_SUFFIXES) else files


def _stamp(file: str) -> str:
    found = os.stat(file)
    return f"{found.st_size} {found.st_mtime_ns}"


def _saved(spec: SourceSpec) -> Source:
    name, rows = open_saved(spec)
    rows = rows if rows._indices is None else rows.flatten_indices()
    stamp = " ".join(_stamp(one["filename"]) for one in rows.cache_files)
    return Source(SAVED, {name: spec.path}, {name: stamp}, spec.media_root or spec.path, rows=rows)


def _hub(spec: SourceSpec) -> Source:
    files, stamps = {}, {}
    with hub_errors(spec):
        addresses = [file for _, found in hub_files(spec, all_splits=True) for file in found]
    for address in addresses:  # hf://datasets/owner/name@commit/folder/file.parquet
        commit, _, name = address.rpartition("@")[2].partition("/")
        files[name], stamps[name] = address, commit
    return Source(FILES, files, stamps, spec.media_root)


def _media(folder: Path, media_root: str | None) -> Source:
    if media_root is not None:
        raise UserError(f"{folder} is a folder of media, whose paths are its own: leave --media_root out.")
    listing = list_files(folder)
    left_out = tuple(sorted(listing.left_out.items()))
    if not listing.files:
        others = ", ".join(f"{count} {reason}" for reason, count in left_out) or "it is empty"
        raise UserError(f"{folder} holds no files of rows, texts, pictures or videos ({others}): check the path.")
    name = folder.resolve().name
    return Source(MEDIA, {name: str(folder)}, {}, str(folder), tuple(listing.files), left_out)


def listing_stamp(files: Sequence[File]) -> str:
    """What changes with any of some files of a folder of media."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.path}\0{file.size}\0{file.modified}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def rows_of_whole_file(path: str) -> pa.Table:
    """The rows of a CSV file, or of JSON that is one list; those of the last file are kept, for its other parts.

    Raises:
        ValueError: It cannot be read.
    """
    found = os.stat(path)
    return _rows(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _rows(path: str, size: int, modified: int) -> pa.Table:
    return read_rows([Path(path)]).table
