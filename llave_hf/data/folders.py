"""Goes through a folder at any depth, linked folders within it included, and counts those that it leaves out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path


class FolderWalk:
    """The files below a folder by name: those of a folder, then those of the folders in it, but for hidden folders.

    A linked folder is entered where it stays inside, but not from within itself, and each but once by a link.

    Args:
        root: The folder.
        left_out: Is given how many folders were not entered, by the reason.
        whole: Names of folders that are given themselves, and not what they hold.
    """

    def __init__(self, root: Path, left_out: Counter[str], whole: Collection[str] = ()) -> None:
        self._root, self._home = root, root.resolve()
        self._left_out, self._whole = left_out, whole
        self._linked: set[Path] = set()  # folders that were entered by a link

    def __iter__(self) -> Iterator[Path]:
        self._linked.clear()
        yield from self._files(self._root, self._home, frozenset())

    def _files(self, folder: Path, real: Path, above: frozenset[Path]) -> Iterator[Path]:
        """`above` are the folders on the way, without links, and `real` is this one."""
        above |= {real}
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_symlink(), os.path.isdir(entry)) for entry in entries)
        except OSError as error:
            self._left_out[f"folders that cannot be read ({error.filename})"] += 1
            return
        yield from (Path(folder, name) for name, _, is_folder in found if not is_folder or name in self._whole)
        for name, is_link, is_folder in found:
            if not is_folder or name.startswith(".") or name in self._whole:
                continue
            path = Path(folder, name)
            target = path.resolve() if is_link else real / name
            if self._enters(target, above, is_link):
                yield from self._files(path, target, above)

    def _enters(self, folder: Path, above: frozenset[Path], is_link: bool) -> bool:
        if not folder.is_relative_to(self._home):
            self._left_out["linked folders that lead out of the folder"] += 1
        elif folder in above or (is_link and folder in self._linked):
            self._left_out["linked folders that were entered already"] += 1
        else:
            self._linked |= {folder} if is_link else set()
            return True
        return False
