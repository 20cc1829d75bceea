"""Finds what is wrong with training rows before any training time is spent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.media import refusal, resolve_media_path
from llave_hf.model.media_llave import MediaError
from llave_hf.model.media_pictures_llave import is_data_uri

from .columns import SideColumns

_SHOWN = 3  # findings that a message spells out; the rest is counted
_FEW = 16  # so many files of one folder are looked up one by one; for more the folder is listed once


def side_faults(side: SideColumns, role: str, locate: Callable[[int], str]) -> Iterator[ValueError]:
    """What is wrong with the entries of a role; each kind of fault names its first entry, and counts the others.

    Args:
        side: All entries of one role.
        role: For messages.
        locate: Says where an entry stands.
    """
    for bad, what in (
        (side.empty(), lambda i: f"the {role} is empty; give it a text, a picture or a video, or drop the row"),
        (
            side.wrongly_marked(),
            lambda i: f"the {role} has {side.describe_marks(i)}; write one mark for each picture (one for a video)",
        ),
    ):
        found = np.flatnonzero(bad)
        if len(found):
            more = f" ({len(found)} rows have this fault)" if len(found) > 1 else ""
            yield ValueError(f"{locate(int(found[0]))}: {what(int(found[0]))}{more}.")


def check_media(
    sides: Sequence[tuple[SideColumns, Callable[[int], str]]], media_root: str | None, check_files: bool
) -> None:
    """Looks whether the files of all samples exist inside `media_root`. It opens none of them.

    Args:
        sides: Entries and, for each side, what says where an entry stands.
        media_root: See `Sample`; there must be one where there are files.
        check_files: Whether to look at all; else only `media_root` is asked for.

    Raises:
        MediaError: Some do not; the message names the first few with their rows, and counts them.
    """
    columns = [(*side.files(), locate) for side, locate in sides]
    unique = pc.unique(pa.concat_arrays([paths for paths, _, _ in columns])).to_pylist()
    unique = [path for path in unique if not is_data_uri(path)]  # that is the picture, opened when it is needed
    if not unique:
        return
    if media_root is None:
        raise MediaError(
            f"{_first(columns, unique[0])} has the path {unique[0]!r}, but relative to which folder? Set `media_root`."
        )
    if not check_files:
        return
    bad = list(_unusable(unique, media_root))
    if not bad:
        return
    lines = [f"{_first(columns, path)}: {reason}" for path, reason in bad[:_SHOWN]]
    rest = f"\n... and {len(bad) - _SHOWN} more files" if len(bad) > _SHOWN else ""
    raise MediaError(
        f"{len(bad)} of {len(unique)} pictures or videos cannot be used.{_hint(bad[0][0], media_root)}\n"
        + "\n".join(lines)
        + rest
    )


def _first(columns: Sequence[tuple[pa.Array, np.ndarray, Callable[[int], str]]], path: str) -> str:
    for paths, parents, locate in columns:
        index = pc.index(paths, path).as_py()
        if index >= 0:
            return locate(int(parents[index]))
    raise KeyError(path)


def _unusable(paths: Sequence[str], media_root: str) -> Iterator[tuple[str, str]]:
    folders: dict[str, list[str]] = {}
    for path in paths:
        reason = refusal(path)
        if reason is not None:
            yield path, f"{path!r} {reason}"
        else:
            folders.setdefault(os.path.dirname(path), []).append(path)
    for folder, inside in folders.items():
        plain = _plain_entries(folder, media_root) if len(inside) > _FEW else frozenset()
        for path in inside:
            if os.path.basename(path) not in plain:
                try:
                    resolve_media_path(path, media_root)
                except MediaError as error:
                    yield path, str(error).rstrip(".")


def _plain_entries(folder: str, media_root: str) -> frozenset[str]:
    """Files and folders in a folder of the root that are no links: one system call for many files."""
    try:
        with os.scandir(resolve_media_path(folder or ".", media_root)) as entries:
            return frozenset(entry.name for entry in entries if not entry.is_symlink())
    except (MediaError, OSError):
        return frozenset()  # then each path is looked up by itself, and says what is wrong


def _hint(path: str, media_root: str) -> str:
    above = Path(media_root).resolve().parent
    if refusal(path) is None and (above / path).exists():
        return f" They lie in the folder above: set media_root to {str(above)!r}."
    return ""
