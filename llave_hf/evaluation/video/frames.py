"""Opens a video once for several samples of its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llave_hf.data.media import resolve_media_path
from llave_hf.model.media_llave import (
    Clip,
    MediaError,
    Timeline,
    broken_video,
    decode_frames,
    frame_files,
    is_animated_format,
    load_image,
    open_container,
)
from llave_hf.model.media_pictures_llave import Medium

# When the frames of a video are shown -> samples, each the numbers of its frames
Choose = Callable[[Timeline], Sequence[Sequence[int]]]


def read_samples(video: Path, choose: Choose) -> list[Clip]:
    """The frames of each sample; a frame that several samples share is decoded once, and is one object.

    Only the chosen frames are kept: a file is gone through twice, as its length is known only at its end.

    Args:
        video: a file, or a folder of frames in the natural order of their names.

    Raises:
        MediaError: it is broken or empty.
    """
    return _read_folder(video, choose) if video.is_dir() else _read_file(video, choose)


def check_video(video: Path) -> None:
    """Open a video and decode its first frame.

    Raises:
        MediaError: that fails, or the video has no frame.
    """
    if video.is_dir():
        load_image(_frame_files(video)[0])
        return
    if is_animated_format(Medium(str(video), path=str(video))):
        load_image(video)
        return
    import av

    try:
        with open_container(video) as container:
            if next(container.decode(video=0), None) is None:
                raise MediaError(f"{video} has no frame; replace it.")
    except (av.FFmpegError, OSError) as error:
        raise broken_video(video, error) from error


def _read_file(video: Path, choose: Choose) -> list[Clip]:
    samples: list[Sequence[int]] = []

    def wanted(timeline: Timeline) -> set[int]:
        samples.extend(choose(timeline))
        return set().union(*samples)

    frames, timeline = decode_frames(video, wanted)
    return [Clip([frames[number] for number in sample], timeline.times_of(sample)) for sample in samples]


def _read_folder(video: Path, choose: Choose) -> list[Clip]:
    files = _frame_files(video)
    samples = choose(Timeline(len(files)))
    frames = {number: load_image(files[number]) for number in sorted(set().union(*samples))}
    return [Clip(frames[number] for number in sample) for sample in samples]


def _frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder, none of which may be a link that leads out of it."""
    files = frame_files(folder)
    if not files:
        raise MediaError(f"{folder} holds no picture; give a video file or a folder of frames.")
    return [resolve_media_path(file.name, folder) for file in files]
