"""The texts, pictures and videos of a folder at any depth, and how many files are left out."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from llave_hf.errors import UserError
from llave_hf.model.media_llave import IMAGE_SUFFIXES, VIDEO_SUFFIXES

from .folders import FolderWalk
from .media import is_inside

TEXT_SUFFIXES = frozenset({".txt", ".md"})


@dataclass(frozen=True)
class File:
    """A file as it was found.

    Attributes:
        path: Relative to the folder, with `/` on every system.
        size: In bytes.
        modified: Nanoseconds since 1970.
    """

    path: str
    size: int
    modified: int


@dataclass
class Listing:
    """What was found: `left_out` counts files by the reason for which they are none of `files`."""

    files: list[File] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def list_files(root: Path, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Listing:
    """All texts, pictures and videos below a folder, in the order of their paths.

    Hidden files and folders (`.name`) are left out, and so is what is no file (a pipe, a device) or has a name that is
    not UTF-8. A linked folder is entered where it stays inside, but not twice and not from within itself; other linked
    folders and links that lead out are counted. In a snapshot of the Hub's cache, links to its own repository's blobs
    stay inside. A glob stands for a path relative to the folder, for a name, or for a folder with all that is in it.

    Args:
        root: The folder.
        include: Globs; where there are any, only what matches one of them is taken.
        exclude: Globs; what matches one of them is left out.

    Raises:
        UserError: There is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is no folder; name one that holds texts, pictures or videos.")
    listing, home = Listing(), root.resolve()
    for path in FolderWalk(root, listing.left_out):
        relative = path.relative_to(root).as_posix()
        reason = _reason(relative, include, exclude)
        if reason is None and path.is_symlink() and not is_inside(path.resolve(), home):
            reason = "links that lead out of the folder"
        if reason is not None:
            listing.left_out[reason] += 1
            continue
        try:
            state = path.stat()
        except OSError:  # deleted meanwhile, or a link to nothing
            listing.left_out["gone while looking, or links to nothing"] += 1
            continue
        if not stat.S_ISREG(state.st_mode):  # to open a pipe is to wait for whoever writes into it
            listing.left_out["pipes, sockets and devices"] += 1
            continue
        listing.files.append(File(relative, state.st_size, state.st_mtime_ns))
    return listing


def _reason(path: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
    if not path.isascii() and path.encode("utf-8", "replace").decode() != path:
        return "files whose names are not UTF-8"  # no table takes them
    pure = PurePosixPath(path)
    suffix = pure.suffix.lower()
    if pure.name.startswith("."):
        return "hidden"
    if suffix not in TEXT_SUFFIXES | IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return f"{suffix} files" if suffix else "files without a suffix"
    if (include and not _matches(pure, include)) or _matches(pure, exclude):
        return "by --include and --exclude"
    return None


def _matches(path: PurePosixPath, globs: Sequence[str]) -> bool:
    names = (path.name, *(part.as_posix() for part in (path, *path.parents)))
    return any(fnmatch(name, glob.rstrip("/")) for name in names for glob in globs)
