"""What lies in a folder: the files that can be indexed, and how many are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from PIL import Image

from llave_hf.encoding.content_keys import file_digest
from llave_hf.errors import UserError
from llave_hf.model.media_llave import IMAGE_SUFFIXES, VIDEO_SUFFIXES

TEXT_SUFFIXES = frozenset({".txt", ".md"})
KINDS = ("text", "image", "video")


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

    Hidden files and folders (`.name`) and links that lead out of the folder are left out. A glob stands for a path
    relative to the folder, for a name, or for a folder with all that is in it.

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
    for path in _walk(root, listing.left_out):
        relative = path.relative_to(root).as_posix()
        reason = _reason(relative, include, exclude)
        if reason is None and path.is_symlink() and not path.resolve().is_relative_to(home):
            reason = "links that lead out of the folder"
        if reason is not None:
            listing.left_out[reason] += 1
            continue
        try:
            state = path.stat()
        except OSError:  # deleted meanwhile, or a link to nothing
            listing.left_out["gone while looking, or links to nothing"] += 1
            continue
        listing.files.append(File(relative, state.st_size, state.st_mtime_ns))
    return listing


def _walk(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        left_out[f"folders that cannot be read ({error.filename})"] += 1

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            yield Path(folder, name)


def _reason(path: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
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


def kind_of(path: Path) -> str:
    """`text`, `image` or `video`; a `.gif` is a video where it has several frames.

    Raises:
        OSError: A `.gif` cannot be opened.
    """
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return "text"
    if suffix == ".gif":
        with Image.open(path, formats=["GIF"]) as picture:
            return "video" if getattr(picture, "is_animated", False) else "image"
    return "image" if suffix in IMAGE_SUFFIXES else "video"


def digest_of(path: Path) -> str:
    """What is equal for two files of the same content that are opened the same way."""
    suffix = path.suffix.lower()
    way = "text" if suffix in TEXT_SUFFIXES else "gif" if suffix == ".gif" else "media"
    return file_digest(path, way.encode()).hex()
