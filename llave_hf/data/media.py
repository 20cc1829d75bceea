"""Opens a sample's pictures and videos, which have to lie inside its media root.

What is a readable picture or video (forms, formats, limits) is `media_llave`'s; this file adds where it may lie.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image

from llave_hf.model.media_llave import MAX_FRAMES, Clip, MediaError, frame_files, load_clip, load_image
from llave_hf.model.media_pictures_llave import is_data_uri

from .samples import Sample
from .stored.pictures import StoredPicture

ADDRESS_PATTERN = r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*://|file:)"
_HUB_REPOSITORY = re.compile(r"(?:models|datasets|spaces)--.+")  # a folder of the Hub's cache


class LoadedSample(TypedDict, total=False):
    """A sample with its media decoded; `images` and `video` stand here only where the sample has them."""

    text: str
    images: list[Image.Image]
    video: Clip


def resolve_media_path(path: str, media_root: str | os.PathLike[str] | None) -> Path:
    """The file or folder that a path means.

    Args:
        path: As written in a row, relative to `media_root`.
        media_root: The folder it may not leave: no absolute path, no `..`, no link that leads out, but for those of a
            snapshot in the Hub's cache to its own repository's blobs. None: the caller vouches for the path, which may
            then be absolute or relative to the working directory.

    Raises:
        MediaError: The path leaves `media_root`, is an address on a network, or does not exist.
    """
    reason = refusal(path)
    if reason is not None and (media_root is not None or is_address(path)):
        raise MediaError(f"{path!r} {reason}.")
    if media_root is None:
        return Path(path)
    root = _real(os.path.abspath(media_root))
    target = root / path
    try:
        resolved = target.resolve(strict=True)
    except FileNotFoundError as error:
        raise MediaError(f"{target} does not exist; check the path, and media_root={str(media_root)!r}.") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, no permission
        raise MediaError(f"{target} cannot be opened ({error}); check the path.") from error
    if not is_inside(resolved, root):
        raise MediaError(
            f"{path!r} is a link that leads out of media_root={str(media_root)!r}, to {resolved}; copy it there."
        )
    return resolved if resolved.is_relative_to(root) else target  # a blob's name says nothing to a reader


def is_inside(resolved: Path, root: Path) -> bool:
    """Whether a path without links lies in a folder without links, or in the blobs of the folder's Hub snapshot."""
    if resolved.is_relative_to(root):
        return True
    blobs = _blobs(root)
    return blobs is not None and resolved.is_relative_to(blobs)


@functools.lru_cache(maxsize=64)
def _blobs(folder: Path) -> Path | None:
    """Where the Hub's cache keeps the files of a snapshot that holds a folder; None: no snapshot does."""
    for snapshot in (folder, *folder.parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and _HUB_REPOSITORY.fullmatch(repository.name):
            return (repository / "blobs").resolve()
    return None


@functools.lru_cache(maxsize=64)
def _real(folder: str) -> Path:
    """Resolved once: it is the same for every file of a data set."""
    return Path(folder).resolve()


def refusal(path: str) -> str | None:
    """Why a path is refused by its very spelling, as the end of a sentence; None where it is not."""
    if is_address(path):
        return "is an address; only local files are opened: download it first and give its path"
    if os.path.isabs(path) or path.startswith(("/", "\\")) or re.match(r"[a-zA-Z]:", path):
        return "is an absolute path; write it relative to media_root"
    if ".." in re.split(r"[/\\]", path):
        return "leaves media_root by '..'; write it without, or set media_root to a folder above"
    if "\0" in path:
        return "holds a zero byte; write the name of a file"
    return None


def is_address(path: str) -> bool:
    """Whether a path has a scheme, such as `https://`; a data URI, which is the medium itself, has none here."""
    return re.match(ADDRESS_PATTERN, path) is not None


def locate(source: Any, media_root: str | os.PathLike[str] | None) -> Any:
    """A picture or video in a form that [`load_image`] and [`load_clip`] open, its path resolved.

    Args:
        source: A path, or what holds the medium itself (a data URI, bytes, the Hub's `{"bytes", "path"}` with bytes),
            which stays as it is.
        media_root: See `resolve_media_path`.

    Raises:
        MediaError: See `resolve_media_path`.
    """
    if isinstance(source, Mapping) and source.get("bytes") is None and source.get("path"):
        source = source["path"]
    if not isinstance(source, (str, os.PathLike)) or is_data_uri(os.fspath(source)):
        return source
    return resolve_media_path(os.fspath(source), media_root)


def open_image(source: Any, media_root: str | os.PathLike[str] | None) -> Image.Image:
    """A picture, decoded and upright, in its own mode (transparency is the processor's business).

    Args:
        source: A path as written in a row, or another form of `locate`.
        media_root: See `resolve_media_path`.

    Raises:
        MediaError: See `resolve_media_path` and `media_llave.load_image`.
    """
    if isinstance(source, StoredPicture):
        content = source.read()
        try:
            return load_image(content)
        except MediaError as error:
            raise MediaError(f"{source}: {error}") from error
    return load_image(locate(source, media_root))


def open_video(
    source: Any,
    media_root: str | os.PathLike[str] | None,
    num_frames: int | None = None,
    max_frames: int = MAX_FRAMES,
) -> Clip:
    """Frames of a video, sampled uniformly over its length, with their times where they are known.

    Args:
        source: A video file or a folder of frames as written in a row, or another form of `locate`.
        media_root: See `resolve_media_path`.
        num_frames: See `media_llave.load_clip`.
        max_frames: Never more than these.

    Raises:
        MediaError: See `resolve_media_path` and `media_llave.load_clip`.
    """
    return load_clip(locate_video(source, media_root), num_frames, max_frames)


def locate_video(source: Any, media_root: str | os.PathLike[str] | None) -> Any:
    """As [`locate`]; the frames of a folder may not leave `media_root` either.

    Raises:
        MediaError: See `resolve_media_path`.
    """
    located = locate(source, media_root)
    if media_root is not None and isinstance(located, Path) and located.is_dir():
        for frame in frame_files(located):
            if frame.is_symlink():  # a frame may lead out of the root where its folder does not
                resolve_media_path(os.path.join(source, frame.name), media_root)
    return located


def load_sample(sample: Sample, num_frames: int | None = None, max_frames: int = MAX_FRAMES) -> LoadedSample:
    """A sample with its media decoded.

    Args:
        sample: What to open.
        num_frames, max_frames: See `open_video`.

    Raises:
        MediaError: One of its files cannot be used; the message names it.
    """
    loaded = LoadedSample(text=sample.text)
    if sample.images:
        loaded["images"] = [open_image(path, sample.media_root) for path in sample.images]
    if sample.video is not None:
        loaded["video"] = open_video(sample.video, sample.media_root, num_frames, max_frames)
    return loaded
