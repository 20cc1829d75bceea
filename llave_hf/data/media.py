"""Opens a sample's pictures and videos, which have to lie inside its media root.

What is a readable picture or video (formats, sizes, limits) is `media_llave`'s; this file adds where it may lie.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TypedDict

from PIL import Image

from llave_hf.model.media_llave import MAX_FRAMES, MediaError, load_frames, load_image

from .samples import Sample
from .stored.pictures import StoredPicture

ADDRESS_PATTERN = r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*://|data:|file:)"


class LoadedSample(TypedDict, total=False):
    """A sample with its media decoded; `images` and `video` stand here only where the sample has them."""

    text: str
    images: list[Image.Image]
    video: list[Image.Image]


def resolve_media_path(path: str, media_root: str | os.PathLike[str] | None) -> Path:
    """The file or folder that a path means.

    Args:
        path: As written in a row, relative to `media_root`.
        media_root: The folder it may not leave: no absolute path, no `..`, no link that leads out. None: the caller
            vouches for the path, which may then be absolute or relative to the working directory.

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
    if not resolved.is_relative_to(root):
        raise MediaError(
            f"{path!r} is a link that leads out of media_root={str(media_root)!r}, to {resolved}; copy it there."
        )
    return resolved


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
    """Whether a path has a scheme, such as `https://` or `data:`."""
    return re.match(ADDRESS_PATTERN, path) is not None


def open_image(path: str | StoredPicture, media_root: str | os.PathLike[str] | None) -> Image.Image:
    """The picture at a path or in a file of rows, decoded, in its own mode (transparency is the processor's business).

    Raises:
        MediaError: See `resolve_media_path` and `media_llave.load_image`.
    """
    if isinstance(path, StoredPicture):
        content = path.read()
        try:
            return load_image(content)
        except MediaError as error:
            raise MediaError(f"{path}: {error}") from error
    return load_image(resolve_media_path(path, media_root))


def open_video(
    path: str,
    media_root: str | os.PathLike[str] | None,
    num_frames: int | None = None,
    max_frames: int = MAX_FRAMES,
) -> list[Image.Image]:
    """Frames of the video at a path, sampled uniformly over its length.

    Args:
        path: A video file or a folder of frames.
        media_root: See `resolve_media_path`.
        num_frames: See `media_llave.load_frames`.
        max_frames: Never more than these.

    Raises:
        MediaError: See `resolve_media_path` and `media_llave.load_frames`.
    """
    resolved = resolve_media_path(path, media_root)
    if media_root is not None and resolved.is_dir():
        for entry in os.scandir(resolved):
            if entry.is_symlink():  # a frame may lead out of the root where its folder does not
                resolve_media_path(os.path.join(path, entry.name), media_root)
    return load_frames(resolved, num_frames, max_frames)


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
