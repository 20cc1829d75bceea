"""How large pictures and clips are, from their headers: what would take too much memory or time is never decoded."""

from __future__ import annotations

from llave_hf.model.media_llave import MediaError, broken_video, is_animated_format, open_container
from llave_hf.model.media_pictures_llave import PILLOW_ERRORS, Medium, open_picture, undecodable

from .inputs import Input
from .limits import Limits


def check_media(entry: Input, limits: Limits, max_frames: int) -> None:
    """Raises [`MediaError`] where pictures or clip have too many pixels, or their headers cannot be read.

    Args:
        entry: An input.
        limits: Of pixels.
        max_frames: Of a clip that the model looks at.
    """
    total = 0
    for medium in entry.pictures:
        with open_picture(medium) as picture:
            total += picture.width * picture.height
    if total > limits.pixels:
        raise MediaError(
            f"the pictures of {entry.name} have {total} pixels, over the limit of {limits.pixels}; scale them down."
        )
    if entry.clip is not None:
        _check_clip(entry.clip, limits, max_frames)


def _check_clip(clip: Medium, limits: Limits, max_frames: int) -> None:
    width, height, frames = _animation(clip) if is_animated_format(clip) else _stream(clip, limits)
    seen, whole = width * height * min(frames, max_frames), width * height * frames
    for pixels, limit, what in (
        (seen, limits.pixels, f"{max_frames} frames of it"),
        (whole, limits.clip_pixels, "it"),
    ):
        if pixels > limit:
            raise MediaError(
                f"{clip.name} has {width} x {height} pixels and {frames} frames: {what} would be {pixels} "
                f"pixels, over the limit of {limit}; scale it down, or shorten it."
            )


def _animation(clip: Medium) -> tuple[int, int, int]:
    with open_picture(clip) as picture:
        try:
            return picture.width, picture.height, getattr(picture, "n_frames", 1)
        except PILLOW_ERRORS as error:
            raise undecodable(clip.name, error) from error


def _stream(clip: Medium, limits: Limits) -> tuple[int, int, int]:
    """Frames are counted by their packets, which need not be decoded; the header's count may say anything."""
    import av

    try:
        with open_container(clip) as container:
            stream = container.streams.video[0]
            width, height = stream.width, stream.height
            most = limits.clip_pixels // max(1, width * height) + 1
            frames = 0
            for packet in container.demux(stream):
                frames += packet.size > 0
                if frames > most:
                    break
    except (av.FFmpegError, OSError) as error:
        raise broken_video(clip, error) from error
    return width, height, frames
