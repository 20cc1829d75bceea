"""Opens pictures and videos safely, as players show them. Self-contained: the file travels with a model to the Hub.

Pictures and the forms of media are `media_pictures_llave`'s; this file adds videos. What a player does before it shows
a frame is done here once: turning, and stretching of pixels that are not square.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .media_pictures_llave import (
    FORMS,
    IMAGE_SUFFIXES,
    PILLOW_ERRORS,
    MediaError,
    Medium,
    as_sequence,
    check_size,
    load_image,
    medium_of,
    missing,
    open_picture,
    to_rgb,
    undecodable,
)

VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif", ".m4v", ".mpg", ".mpeg"})
# FFmpeg's names of the containers behind these suffixes. Others are refused: playlists (hls, concat, dash) and image
# sequences open further files, wherever they are.
VIDEO_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "gif", "mpeg", "mpegvideo", "mpegts")
SAMPLING_FPS = 3.0  # LLaVE's `video_fps` for text-to-video retrieval
MAX_FRAMES = 32  # LLaVE's `frames_upbound`
# Animated pictures are Pillow's: FFmpeg opens no animated WebP.
_ANIMATED_STARTS = re.compile(rb"GIF8|\x89PNG|RIFF....WEBP|....ftypavi[fs]", re.DOTALL)
_SHORTEST_SHOWN = 10.0  # milliseconds: browsers show a frame of an animated picture that says less, or nothing, ...
_SHOWN_INSTEAD = 100.0  # ... for so many
_seeking = threading.Lock()  # threads that share an opened picture move one position
# The signs of a display matrix (a, b, c, d), which takes a pixel (x, y) to (ax + cy, bx + dy), y downwards.
_TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class Clip(list[Image.Image]):
    """Frames of a video: a list that also knows, where it can be known, when each is shown.

    Args:
        frames: The frames.
        seconds: The time of each.
    """

    def __init__(self, frames: Iterable[Image.Image] = (), seconds: Sequence[float] | None = None) -> None:
        super().__init__(frames)
        self.seconds = None if seconds is None else list(seconds)

    @property
    def frames(self) -> list[Image.Image]:
        """The frames alone."""
        return list(self)


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Attributes:
        total: Frames in the video.
        fps: Frames a second; None where the rate changes or means nothing (frames of a folder).
        seconds: When each frame is shown, from the start of the file; None where that is not known.
    """

    total: int
    fps: float | None = None
    seconds: Sequence[float] | None = None

    def times_of(self, numbers: Iterable[int]) -> list[float] | None:
        """When some of the frames are shown."""
        return None if self.seconds is None else [self.seconds[number] for number in numbers]


def load_frames(source: Any, num_frames: int | None = None, max_frames: int = MAX_FRAMES) -> list[Image.Image]:
    """The frames of [`load_clip`]."""
    return load_clip(source, num_frames, max_frames).frames


def load_clip(
    source: Any, num_frames: int | None = None, max_frames: int = MAX_FRAMES, sampling_fps: float = SAMPLING_FPS
) -> Clip:
    """Frames of a video, sampled uniformly over its length; with their own times where the source has them.

    Args:
        source: A video file or an animated GIF, WebP, PNG or AVIF as a path, bytes, a binary file object, the Hub's
            `{"bytes", "path"}` or a data URI; an animated PIL picture; a folder of frames (in the natural order of
            their names, hidden files left out); a sequence of pictures in any form of [`load_image`]; or an array or
            tensor `(frames, H, W, C)` or `(frames, C, H, W)`.
        num_frames: How many frames to take (fewer where the video has fewer), evenly by their numbers. None takes
            `sampling_fps` a second of what has times, and every frame of anything else.
        max_frames: Never more than these.
        sampling_fps: Frames a second, LLaVE's `video_fps`.

    Raises:
        MediaError: The video cannot be read, or has no frame.
    """

    def choose(timeline: Timeline) -> list[int]:
        total, fps, seconds = timeline.total, timeline.fps, timeline.seconds
        return sample_frames(total, fps, num_frames, max_frames, sampling_fps, seconds=seconds)

    name, frames = "a list of frames", as_sequence(source)
    if frames is None and getattr(source, "ndim", 0) == 4:
        frames = source
    if frames is None:
        medium = None if isinstance(source, Image.Image) else medium_of(source)
        if medium is None or not os.path.isdir(medium.path or ""):
            chosen, timeline = decode_frames(medium or source, choose)
            return Clip(chosen.values(), timeline.times_of(chosen))
        name, frames = medium.name, frame_files(Path(medium.name))
    if len(frames) == 0:
        raise MediaError(f"{name} has no frame; give at least one picture.")
    indices = choose(Timeline(len(frames)))
    known = Timeline(len(frames), seconds=getattr(source, "seconds", None))  # of a clip that was opened before
    return Clip((load_image(frames[index]) for index in indices), known.times_of(indices))


def frame_files(folder: Path) -> list[Path]:
    """The frames in a folder, in the natural order of their names; hidden files (a Mac's `._1.jpg`) are none."""
    with os.scandir(folder) as entries:
        seen = [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    names = [name for name in seen if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return sorted((folder / name for name in names), key=natural_key)


def natural_key(path: Path) -> list[Any]:
    """By which names sort as people count: frame 2 before frame 10."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", path.name))]


def sample_frames(
    total: int,
    fps: float | None,
    num_frames: int | None = None,
    max_frames: int = MAX_FRAMES,
    sampling_fps: float = SAMPLING_FPS,
    *,
    seconds: Sequence[float] | None = None,
) -> list[int]:
    """Which frames of a video are looked at.

    As LLaVE's loader (CLIP4Clip/dataloaders): every `round(fps / sampling_fps)`-th frame, `np.linspace` over the whole
    length where these are more than `max_frames`. Unlike it, a video under 1.5 frames a second is no error, and one
    whose rate changes is sampled by its times: what is shown at 0, 1/3, 2/3, ... seconds.

    Args:
        total: Frames in the video.
        fps: Frames a second, or None where that means nothing (then every frame is a candidate, but for `seconds`).
        num_frames: Take so many by `np.linspace` instead.
        max_frames: Never more than these.
        sampling_fps: Frames a second, where `num_frames` is None.
        seconds: When each frame is shown; counts where `fps` is None.

    Raises:
        ValueError: `num_frames` or `max_frames` is below 1.
    """
    for name, value in (("num_frames", num_frames), ("max_frames", max_frames)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; a video needs at least one frame.")
    if num_frames is None and fps is None and seconds is not None:
        return _by_time(seconds, sampling_fps, max_frames)
    if num_frames is None:
        step = 1 if fps is None else max(1, round(fps / sampling_fps))
        indices = list(range(0, total, step))
        if len(indices) <= max_frames:
            return indices
        num_frames = max_frames
    count = min(num_frames, max_frames, total)
    return np.linspace(0, total - 1, count, dtype=int).tolist()


def _by_time(seconds: Sequence[float], sampling_fps: float, max_frames: int) -> list[int]:
    since = np.maximum.accumulate(np.asarray(seconds) - seconds[0])
    # The first tick of a clock of `sampling_fps` at which a frame is there; it is seen if the next one comes later.
    ticks = np.ceil(since * sampling_fps - 1e-6)
    seen = np.flatnonzero(np.append(ticks[:-1] < ticks[1:], ticks[-1] <= since[-1] * sampling_fps + 1e-6))
    if len(seen) > max_frames:
        seen = np.searchsorted(since, np.linspace(0, since[-1], max_frames), side="right") - 1
    return np.unique(seen).tolist()


def decode_frames(source: Any, choose: Callable[[Timeline], Iterable[int]]) -> tuple[dict[int, Image.Image], Timeline]:
    """The chosen frames of a video or animated picture by number, in order, and when its frames are shown.

    It is gone through twice, as its length is known only at its end, and only the chosen frames are kept.

    Args:
        source: See [`load_clip`], but for folders and sequences.
        choose: From the times of all frames to the numbers of those to keep.

    Raises:
        MediaError: It is missing, broken, no video, or has no frame.
    """
    if isinstance(source, Image.Image):
        return _decode_opened(source, choose)
    medium = medium_of(source)
    if medium is None:
        raise MediaError(
            f"a video is given as {type(source).__name__}; give {FORMS} of four dimensions, a folder of frames, or a "
            "list of pictures."
        )
    if is_animated_format(medium):
        with open_picture(medium) as picture:
            return _decode_animated(picture, medium.name, choose)
    return _decode_stream(medium, choose)


def is_animated_format(medium: Medium) -> bool:
    """Whether it begins as a GIF, WebP, PNG or AVIF does; raises [`MediaError`] where it cannot be read."""
    try:
        return _ANIMATED_STARTS.match(medium.start()) is not None
    except FileNotFoundError as error:
        raise missing(medium) from error
    except (OSError, ValueError) as error:
        raise broken_video(medium, error) from error


def _decode_opened(
    picture: Image.Image, choose: Callable[[Timeline], Iterable[int]]
) -> tuple[dict[int, Image.Image], Timeline]:
    name = getattr(picture, "filename", "") or "a PIL image"
    if not getattr(picture, "is_animated", False):
        raise MediaError(f"a video is given as one still picture ({name}); give a clip, or a list of pictures.")
    with _seeking:
        place = picture.tell()
        try:
            return _decode_animated(picture, name, choose)
        finally:
            picture.seek(place)


def _decode_animated(
    picture: Image.Image, name: str, choose: Callable[[Timeline], Iterable[int]]
) -> tuple[dict[int, Image.Image], Timeline]:
    try:
        check_size(picture.size, name)
        count = getattr(picture, "n_frames", 1)
        if count == 1 and picture.format != "GIF":
            raise MediaError(f"{name} is one still picture, not a clip; give it as a picture, or in a list of frames.")
        first = int(getattr(picture, "default_image", False))  # a PNG's stand-in for those who show no animation
        seconds, now = [], 0.0
        for number in range(first, count):
            picture.seek(number)
            picture.load()  # a WebP says how long a frame is shown only then
            seconds.append(now / 1000)
            shown = float(picture.info.get("duration") or 0)
            now += shown if shown > _SHORTEST_SHOWN else _SHOWN_INSTEAD
        timeline = _timeline(seconds, None)
        frames = {}
        for number in sorted(set(choose(timeline))):
            picture.seek(first + number)
            frames[number] = to_rgb(picture)
    except MediaError:
        raise
    except PILLOW_ERRORS as error:
        raise undecodable(name, error) from error
    return frames, timeline


def _decode_stream(
    medium: Medium, choose: Callable[[Timeline], Iterable[int]]
) -> tuple[dict[int, Image.Image], Timeline]:
    import av

    try:
        with open_container(medium) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate) if stream.average_rate else None
            # The header's count is missing or wrong too often.
            times = [frame.time for frame in container.decode(stream)]
            start = None if container.start_time is None else container.start_time / av.time_base
        if not times:
            raise MediaError(f"{medium.name} has no frame; replace it.")
        timeline = _timeline(times, rate, start)
        chosen = set(choose(timeline))
        with open_container(medium) as container:
            aspect = float(container.streams.video[0].sample_aspect_ratio or 1)
            decoded = itertools.islice(enumerate(container.decode(video=0)), max(chosen, default=-1) + 1)
            frames = {n: _shown(frame, aspect, medium.name) for n, frame in decoded if n in chosen}
    except (av.FFmpegError, OSError) as error:
        raise broken_video(medium, error) from error
    return frames, timeline


def _timeline(times: Sequence[float | None], rate: float | None, start: float | None = None) -> Timeline:
    """From presentation times, None where a frame has none, and what the header says of the rate."""
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return Timeline(len(times), rate, tuple(n / rate for n in range(len(times))) if rate else None)
    first = known[0] if start is None else min(start, known[0])
    seconds = tuple(time - first for time in known)
    gap = (seconds[-1] - seconds[0]) / max(len(seconds) - 1, 1)
    if gap <= 0:
        return Timeline(len(seconds), rate, seconds)
    drift = np.abs(np.asarray(seconds) - seconds[0] - gap * np.arange(len(seconds))).max()
    if drift >= gap:
        return Timeline(len(seconds), None, seconds)
    is_true = rate is not None and abs(rate * gap - 1) < 0.05  # but for times rounded to milliseconds
    return Timeline(len(seconds), rate if is_true else 1 / gap, seconds)


def _shown(frame: Any, pixel_aspect: float, name: str) -> Image.Image:
    """A frame as a player shows it."""
    picture = frame.to_image()
    if pixel_aspect != 1:
        size = round(picture.width * pixel_aspect), picture.height
        check_size(size, name)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    turn = _display_turn(frame)
    return picture if turn is None else picture.transpose(turn)


def _display_turn(frame: Any) -> Image.Transpose | None:
    """How a phone's video that lies on its side is to be turned; angles between are not shown by players either."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32)
    scale = max(abs(int(value)) for value in (a, b, c, d)) or 1
    return _TURNS.get(tuple(round(int(value) / scale) for value in (a, b, c, d)))  # type: ignore[arg-type]


def open_container(source: Any) -> Any:
    """A video opened by PyAV, from disk or memory and of a known container alone.

    Raises:
        MediaError: It has no video stream, or one of an unknown coding or a bad size.
    """
    import av

    medium = source if isinstance(source, Medium) else Medium(os.fspath(source), path=os.fspath(source))
    # An absolute path, so that FFmpeg takes no name for a protocol ("concat:a|b").
    stream = medium.stream if medium.path is None else os.path.abspath(medium.path)
    options = {"format_whitelist": ",".join(VIDEO_CONTAINERS), "protocol_whitelist": "file"}
    container = av.open(stream, metadata_errors="ignore", options=options)
    try:
        if not container.streams.video:
            raise MediaError(f"{medium.name} holds no video stream; give a video file or a folder of frames.")
        video = container.streams.video[0]
        if video.codec_context is None:
            raise MediaError(f"{medium.name} holds a video in an unknown coding; convert it, to H.264 for example.")
        check_size((video.width, video.height), medium.name)
    except MediaError:
        container.close()
        raise
    return container


def broken_video(source: Any, error: Exception) -> MediaError:
    """What is said of a file that PyAV cannot decode."""
    name = source.name if isinstance(source, Medium) else os.fspath(source)
    return MediaError(f"{name} cannot be decoded ({error}); the file is broken or no video: replace it.")


__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Clip",
    "MediaError",
    "Timeline",
    "as_sequence",
    "broken_video",
    "decode_frames",
    "frame_files",
    "is_animated_format",
    "load_clip",
    "load_frames",
    "load_image",
    "natural_key",
    "open_container",
    "sample_frames",
    "to_rgb",
]
