"""Folders written atomically: whole or not there, whenever the process that writes them is killed.

All is written into a room of its own, `_unfinished`, beside its place; brought to disk; and then moved in one step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)

UNFINISHED = "_unfinished"  # the Hub's pushes and `checkpoint-*` pass over it
_REPLACED, _DELETED = "replaced-", "deleted-"


def clear_leftovers(folder: str | os.PathLike[str]) -> None:
    """Removes what a killed process left half done in a folder, and names it in the log."""
    room = Path(folder) / UNFINISHED
    if not room.is_dir():
        return
    for aside in room.glob(f"{_REPLACED}*"):
        place = Path(folder) / aside.name.removeprefix(_REPLACED)
        if not place.exists():  # killed between the two moves of `publish`
            os.replace(aside, place)
    left = sorted(path.name for path in room.iterdir())
    if left:
        logger.warning(f"removed what a stopped run left unfinished in {room}: {', '.join(left)}.")
    shutil.rmtree(room)


def publish(staged: Path, place: Path) -> None:
    """Brings a staged folder to disk and moves it to its place, in one step; nothing where it is moved already."""
    if not staged.is_dir():
        return
    _to_disk(staged)
    aside = staged.with_name(f"{_REPLACED}{place.name}")
    if place.exists():
        os.replace(place, aside)
    os.replace(staged, place)
    _sync(place.parent)
    shutil.rmtree(aside, ignore_errors=True)
    leave_room(place.parent)


def remove(folder: Path) -> None:
    """Removes a folder: killed halfway, no half of it is left in its place."""
    aside = folder.parent / UNFINISHED / f"{_DELETED}{folder.name}"
    aside.parent.mkdir(exist_ok=True)
    os.replace(folder, aside)
    shutil.rmtree(aside)
    leave_room(folder.parent)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `place` when the block has ended without an error."""
    staged = _new(place.parent / UNFINISHED / place.name)
    yield staged
    publish(staged, place)


@contextmanager
def whole_files(folder: Path, last: str) -> Iterator[Path]:
    """A new folder to write into, whose files replace those of `folder` when the block has ended without an error.

    Args:
        folder: May hold other files; they stay.
        last: Name of the file that comes last: where it stands, all others do.
    """
    staged = _new(folder / UNFINISHED / "files")
    yield staged
    _to_disk(staged)
    files = [path for path in sorted(staged.rglob("*")) if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == last):
        place = folder / path.relative_to(staged)
        place.parent.mkdir(exist_ok=True)
        os.replace(path, place)
    _sync(folder)
    shutil.rmtree(staged)
    leave_room(folder)


def leave_room(folder: Path) -> None:
    """Removes the room for unfinished folders, if nothing is in it."""
    room = folder / UNFINISHED
    if not any(room.iterdir()):
        room.rmdir()


def _new(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _to_disk(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
