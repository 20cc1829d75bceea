"""What has changed in a folder since it was indexed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llave_hf.data.media_files import File

from .store import Store, quoted


@dataclass
class Changes:
    """Files of one folder, by what is to be done.

    Attributes:
        pending: New ones, and those whose size or time is another than it was.
        unchanged: How many are as they were.
        known: The digest of each indexed path, before anything is done.
        digests: Of the whole collection, other folders included.
        noted: All paths that the tables have something about.
        gone: Indexed paths that are no longer there, or are left out now.
        broken: The reasons of those that could not be used and have not changed since.
    """

    pending: list[File] = field(default_factory=list)
    unchanged: int = 0
    known: dict[str, str] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)
    noted: set[str] = field(default_factory=set)
    gone: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)


def find_changes(store: Store, root: str, files: Sequence[File]) -> Changes:
    """Compares what lies in a folder with what a collection knows of it."""
    rows = store.read(["path", "size", "modified", "digest"], f"root = {quoted(root)}").to_pylist()
    broken = {row["path"]: row for row in store.read_broken(root)}
    indexed = {row["path"]: row for row in rows}
    changes = Changes(
        known={path: row["digest"] for path, row in indexed.items()},
        digests=set(store.read(["digest"])["digest"].to_pylist()),
        noted={*indexed, *broken},
    )
    for file in files:
        if _same(file, indexed.get(file.path)):
            changes.unchanged += 1
        elif _same(file, broken.get(file.path)):
            changes.broken[file.path] = broken[file.path]["reason"]
        else:
            changes.pending.append(file)
    changes.gone = sorted(changes.noted - {file.path for file in files})
    return changes


def _same(file: File, row: Mapping[str, int] | None) -> bool:
    return row is not None and (row["size"], row["modified"]) == (file.size, file.modified)
