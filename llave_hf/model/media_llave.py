"""Opens pictures and videos safely. Self-contained: the file travels with a model to the Hub.

Whoever accepts files from others should know the limits: no network, only common raster formats, at most
`MAX_PIXELS` pixels, sides of at least `MIN_SIDE` pixels, no side more than `MAX_ASPECT_RATIO` times the other.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif", ".m4v", ".mpg", ".mpeg"})
# FFmpeg's names of the containers behind these suffixes. Others are refused: playlists (hls, concat, dash) and image
# sequences open further files, wherever they are.
VIDEO_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "gif", "mpeg", "mpegvideo", "mpegts")
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs; here it is an error
MIN_SIDE = 2
MAX_ASPECT_RATIO = 200.0
SAMPLING_FPS = 3.0  # LLaVE's `video_fps` for text-to-video retrieval
MAX_FRAMES = 32  # LLaVE's `frames_upbound`


# What Pillow's decoders are known to raise on broken files, beside OSError.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True)
class Clip:
    """Frames of a video and, where they are known, their times in seconds."""

    frames: list[Image.Image]
    seconds: list[float] | None = None


class MediaError(ValueError):
    """A picture or video that cannot be used; the message names it and says why."""


def load_image(source: Any) -> Image.Image:
    """One picture as a PIL image, decoded.

    Args:
        source: A PIL image, a path, or an array or tensor of bytes, `(H, W)`, `(H, W, C)` or `(C, H, W)`.

    Raises:
        MediaError: The file is missing, broken, too large, too thin, of another format, or an address on a network.
    """
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        with _open(name) as image:
            return _decoded(image, name)
    if isinstance(source, Image.Image):
        return _decoded(source, getattr(source, "filename", "") or "a PIL image")
    return _from_array(source, f"an array of type {type(source).__name__}")


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB, without its transparency (as the research code: a see-through pixel shows its colour).

    16-bit grey is scaled to 8 bits; Pillow alone would make nearly all of it white.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def load_frames(source: Any, num_frames: int | None = None, max_frames: int = MAX_FRAMES) -> list[Image.Image]:
    """The frames of [`load_clip`]."""
    return load_clip(source, num_frames, max_frames).frames


def load_clip(
    source: Any, num_frames: int | None = None, max_frames: int = MAX_FRAMES, sampling_fps: float = SAMPLING_FPS
) -> Clip:
    """Frames of a video, sampled uniformly over its length; with their times where the source is a video file.

    Args:
        source: A video file, a folder of frames (in the natural order of their names), a list of pictures, or an
            array or tensor `(frames, H, W, C)` or `(frames, C, H, W)`.
        num_frames: How many frames to take (fewer where the video has fewer). None takes `sampling_fps` a second of
            a video file and every frame of anything else.
        max_frames: Never more than these.
        sampling_fps: Frames a second, LLaVE's `video_fps`.

    Raises:
        MediaError: The video cannot be read, or has no frame.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        _refuse_address(os.fspath(source))
        if not path.is_dir():
            return _decode_video(path, num_frames, max_frames, sampling_fps)
        source = sorted((p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
        name = os.fspath(path)
    else:
        name = "a list of frames"
        if not isinstance(source, (list, tuple)) and getattr(source, "ndim", 0) != 4:
            raise MediaError(
                f"a video is given as {type(source).__name__}; give a file, a folder of frames, a list of pictures or "
                "an array with four dimensions."
            )
    if len(source) == 0:
        raise MediaError(f"{name} has no frame; give at least one picture.")
    indices = sample_frames(len(source), None, num_frames, max_frames)
    return Clip([load_image(source[index]) for index in indices])


def sample_frames(
    total: int,
    fps: float | None,
    num_frames: int | None = None,
    max_frames: int = MAX_FRAMES,
    sampling_fps: float = SAMPLING_FPS,
) -> list[int]:
    """Which frames of a video are looked at.

    As LLaVE's loader (CLIP4Clip/dataloaders): every `round(fps / sampling_fps)`-th frame, `np.linspace` over the whole
    length where these are more than `max_frames`. Unlike it, a video under 1.5 frames a second is no error.

    Args:
        total: Frames in the video.
        fps: Frames a second, or None where that means nothing (then every frame is a candidate).
        num_frames: Take so many by `np.linspace` instead.
        max_frames: Never more than these.
        sampling_fps: Frames a second, where `num_frames` is None.

    Raises:
        ValueError: `num_frames` or `max_frames` is below 1.
    """
    for name, value in (("num_frames", num_frames), ("max_frames", max_frames)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; a video needs at least one frame.")
    if num_frames is None:
        step = 1 if fps is None else max(1, round(fps / sampling_fps))
        indices = list(range(0, total, step))
        if len(indices) <= max_frames:
            return indices
        num_frames = max_frames
    count = min(num_frames, max_frames, total)
    return np.linspace(0, total - 1, count, dtype=int).tolist()


def _decoded(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    try:
        image.load()
    except _PILLOW_ERRORS as error:
        raise MediaError(
            f"{name} cannot be decoded ({error}); the file is truncated or broken: replace it."
        ) from error
    return image


def _open(path: str) -> Image.Image:
    _refuse_address(path)
    try:
        return Image.open(path, formats=IMAGE_FORMATS)
    except FileNotFoundError as error:
        raise MediaError(f"{path} does not exist; check the path or the folder it is relative to.") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} is larger than {MAX_PIXELS} pixels; scale it down.") from error
    except _PILLOW_ERRORS as error:
        raise MediaError(
            f"{path} is no readable picture ({error}); give one of {', '.join(IMAGE_FORMATS)}, complete."
        ) from error


def _refuse_address(path: str) -> None:
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:", path):
        raise MediaError(f"{path[:100]} is an address; only local files are opened: download it first.")


def _check_size(size: tuple[int, int], name: str) -> None:
    """Refuses a picture of (width, height) that is too thin or too large, with a [`MediaError`] that has its name."""
    width, height = size
    if min(size) < MIN_SIDE or max(size) > MAX_ASPECT_RATIO * min(size):
        raise MediaError(
            f"{name} is {width} x {height} pixels; a picture needs sides of at least {MIN_SIDE} pixels and at most "
            f"{MAX_ASPECT_RATIO:g} times each other: replace it."
        )
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name} has {width * height} pixels, over the limit of {MAX_PIXELS}; scale it down.")


def _from_array(source: Any, name: str) -> Image.Image:
    pixels = np.asarray(source)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)):
        raise MediaError(
            f"{name} has dtype {pixels.dtype} and shape {pixels.shape}; a picture is an array of uint8, "
            "(H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels."
        )
    _check_size(pixels.shape[1::-1], name)
    return Image.fromarray(np.ascontiguousarray(pixels))


def natural_key(path: Path) -> list[Any]:
    """By which names sort as people count: frame 2 before frame 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _decode_video(path: Path, num_frames: int | None, max_frames: int, sampling_fps: float) -> Clip:
    if not path.exists():
        raise MediaError(f"{path} does not exist; check the path or the folder it is relative to.")
    frames, fps = decode_frames(
        path, lambda total, fps: sample_frames(total, fps, num_frames, max_frames, sampling_fps)
    )
    return Clip(list(frames.values()), [number / fps for number in frames] if fps else None)


def decode_frames(
    path: Path, choose: Callable[[int, float | None], Iterable[int]]
) -> tuple[dict[int, Image.Image], float | None]:
    """The chosen frames of a video file by number, in order, and its frames a second (None: not known).

    The file is gone through twice, as its length is known only at its end, and only the chosen frames are kept.

    Args:
        path: A file that exists.
        choose: (frames of the video, frames a second or None) -> the numbers of those to keep.

    Raises:
        MediaError: The file is broken, no video, or has no frame.
    """
    import av

    try:
        with open_container(path) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate) if stream.average_rate else None
            total = sum(1 for _ in container.decode(stream))  # the header's count is missing or wrong too often
        if not total:
            raise MediaError(f"{path} has no frame; replace it.")
        chosen = set(choose(total, fps))
        with open_container(path) as container:
            frames = {n: frame.to_image() for n, frame in enumerate(container.decode(video=0)) if n in chosen}
    except (av.FFmpegError, OSError) as error:
        raise broken_video(path, error) from error
    return frames, fps


def open_container(path: Path) -> Any:
    """A video file opened by PyAV, from disk and of a known container alone.

    Raises:
        MediaError: It has no video stream, or one of an unknown coding or a bad size.
    """
    import av

    # An absolute path, so that FFmpeg takes no name for a protocol ("concat:a|b").
    options = {"format_whitelist": ",".join(VIDEO_CONTAINERS), "protocol_whitelist": "file"}
    container = av.open(str(path.absolute()), metadata_errors="ignore", options=options)
    try:
        if not container.streams.video:
            raise MediaError(f"{path} holds no video stream; give a video file or a folder of frames.")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise MediaError(f"{path} holds a video in an unknown coding; convert it, to H.264 for example.")
        _check_size((stream.width, stream.height), str(path))
    except MediaError:
        container.close()
        raise
    return container


def broken_video(path: Path, error: Exception) -> MediaError:
    """What is said of a file that PyAV cannot decode."""
    return MediaError(f"{path} cannot be decoded ({error}); the file is broken or no video: replace it.")


__all__ = [
    "Clip",
    "MediaError",
    "broken_video",
    "decode_frames",
    "load_clip",
    "load_frames",
    "load_image",
    "natural_key",
    "open_container",
    "sample_frames",
    "to_rgb",
]
