"""What of a source training would not read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from llave_hf.data.mining.names import REPORT_FILE
from llave_hf.data.sources.indexed import SubsetFiles

from .remarks import NOTE, Remark

NAMED = 5  # columns or files that a line lists


def unread_files(subsets: Sequence[SubsetFiles]) -> list[Remark]:
    """Files beside those that rows were read from, of other splits or kinds, by folder of rows."""
    read = {Path(file).absolute() for subset in subsets for file, _ in subset.files}
    folders = {file.parent for file in read if file.is_file()}
    remarks = []
    for folder in sorted(folders):
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
        beside = [name for name in names if folder / name not in read and name != REPORT_FILE]
        # A file of rows that is named by itself may lie among anything.
        if beside and any(Path(subset.spec.path).is_dir() and _inside(folder, subset) for subset in subsets):
            remarks.append(Remark(NOTE, str(folder), f"not read: {listed(beside)}"))
    return remarks


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many there are beside."""
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _inside(folder: Path, subset: SubsetFiles) -> bool:
    return folder.is_relative_to(Path(subset.spec.path).absolute())
