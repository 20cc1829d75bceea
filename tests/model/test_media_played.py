"""Clips come out as players show them: upright, with square pixels, in their own time."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import pictures
from PIL import Image

from llave_hf.model.media_llave import MediaError, load_clip, load_image, sample_frames

# ------------------------------------------------------------------------------------------------------------- videos


def corners(image: Image.Image) -> list[str]:
    """The corners of a picture that are white."""
    width, height = image.size
    places = {"top left": (3, 3), "top right": (width - 4, 3), "low left": (3, height - 4)}
    grey = image.convert("L")
    places["low right"] = width - 4, height - 4
    return [name for name, place in places.items() if grey.getpixel(place) > 128]


def marked_video(path: Path, matrix: list[int] | None = None, pixel_aspect: Fraction | None = None) -> Path:
    """64 x 32 pixels, white in the top left; the display matrix is written into the file's own bytes."""
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:16, :32] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    if matrix is not None:
        content = path.read_bytes()
        track = content.index(b"tkhd")
        start = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), track)
        a, b, c, d = (value << 16 for value in matrix)
        turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(content[:start] + turned + content[start + 36 :])
    return path


@pytest.mark.parametrize(
    ("matrix", "size", "corner"),
    [
        (None, (64, 32), "top left"),
        ([1, 0, 0, 1], (64, 32), "top left"),
        ([0, 1, -1, 0], (32, 64), "top right"),  # a phone held upright
        ([-1, 0, 0, -1], (64, 32), "low right"),
        ([0, -1, 1, 0], (32, 64), "low left"),
        ([-1, 0, 0, 1], (64, 32), "top right"),
        ([1, 0, 0, -1], (64, 32), "low left"),
        ([0, 1, 1, 0], (32, 64), "top left"),
        ([0, -1, -1, 0], (32, 64), "low right"),
    ],
)
def test_videos_are_turned_as_players_turn_them(
    matrix: list[int] | None, size: tuple[int, int], corner: str, tmp_path: Path
) -> None:
    for frame in load_clip(marked_video(tmp_path / "phone.mp4", matrix)):
        assert frame.size == size
        assert corners(frame) == [corner]


def test_pixels_that_are_not_square_are_stretched_before_the_turn(tmp_path: Path) -> None:
    wide = marked_video(tmp_path / "wide.mp4", [0, 1, -1, 0], Fraction(4, 3))
    assert load_clip(wide)[0].size == (32, 85)
    assert load_clip(marked_video(tmp_path / "square.mp4", None, Fraction(1, 1)))[0].size == (64, 32)


SCREEN = [i * 33 for i in range(30)] + [1000 + i * 1000 for i in range(20)]  # a second of movement, 19 of rest


def timed_video(path: Path, milliseconds: list[int], codec: str = "libx264") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(milliseconds):
            pixels = np.full((48, 64, 3), number * 4, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx"), ("a.mp4", "libx264"), ("a.mkv", "libx264")])
def test_frames_have_their_own_times(name: str, codec: str, tmp_path: Path) -> None:
    path = timed_video(tmp_path / name, SCREEN, codec)
    chosen = np.linspace(0, len(SCREEN) - 1, 8, dtype=int)
    clip = load_clip(path, num_frames=8)
    assert clip.seconds == pytest.approx([SCREEN[number] / 1000 for number in chosen], abs=0.002)
    levels = [frame.getpixel((9, 9))[0] for frame in clip]
    assert levels == pytest.approx([number * 4 for number in chosen], abs=5)


def test_a_clip_that_begins_late_is_timed_from_its_beginning(tmp_path: Path) -> None:
    path = timed_video(tmp_path / "cut.ts", [3_600_000 + time for time in range(0, 2000, 100)])
    path.rename(tmp_path / "cut.mpg")
    assert load_clip(tmp_path / "cut.mpg", num_frames=3).seconds == pytest.approx([0, 0.9, 1.9], abs=0.01)


def test_a_changing_rate_is_sampled_by_time(tmp_path: Path) -> None:
    path = timed_video(tmp_path / "screen.mkv", SCREEN)
    assert load_clip(path).seconds == pytest.approx([0, 0.33, 0.66, *range(1, 21)], abs=0.04)
    few = load_clip(path, max_frames=5)
    assert few.seconds == pytest.approx([0, 5, 10, 15, 20], abs=0.04)  # evenly over its length
    assert load_clip(path, sampling_fps=0.2).seconds == pytest.approx([0, 5, 10, 15, 20], abs=0.04)


def test_sampling_by_time_takes_what_is_shown_at_each_tick() -> None:
    seconds = np.sort(np.random.default_rng(0).uniform(0, 30, 200))
    seconds -= seconds[0]
    ticks = np.arange(0, seconds[-1], 1 / 3)
    wanted = sorted({int(np.flatnonzero(seconds <= tick + 1e-9)[-1]) for tick in ticks})
    assert sample_frames(200, None, None, 200, seconds=seconds) == wanted
    assert sample_frames(200, None, 7, 200, seconds=seconds) == np.linspace(0, 199, 7, dtype=int).tolist()
    assert sample_frames(3, None, None, 32, seconds=[0.0, 0.0, 1e9]) == [1, 2]  # times that nobody can wait for


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animated_pictures_have_their_own_times(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), (level,) * 3) for level in (0, 60, 120, 180)]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:], duration=[100, 1000, 10, 400])
    for source in (tmp_path / "a", Image.open(tmp_path / "a")):
        clip = load_clip(source, num_frames=4)
        assert [frame.getpixel((3, 3))[0] for frame in clip] == pytest.approx([0, 60, 120, 180], abs=4)
        assert clip.seconds == pytest.approx([0, 0.1, 1.1, 1.2])  # browsers show 10 ms for 100
    assert len(load_clip(tmp_path / "a", sampling_fps=1.0)) == 2  # shown at 0 s and at 1 s


def test_an_opened_animation_stands_where_it_stood(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), (level,) * 3) for level in (0, 100, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    opened = Image.open(tmp_path / "a.webp")
    opened.seek(1)
    assert [frame.getpixel((3, 3))[0] for frame in load_clip(opened, num_frames=3)] == [0, 100, 200]
    assert opened.tell() == 1 and load_image(opened).getpixel((3, 3))[0] == 100


def test_a_pngs_stand_in_is_no_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), (level,) * 3) for level in (0, 100, 200)]
    frames[0].save(
        tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=[200, 500], default_image=True
    )
    clip = load_clip(tmp_path / "a.png", num_frames=9)
    assert [frame.getpixel((3, 3))[0] for frame in clip] == [100, 200] and clip.seconds == [0, 0.2]


def test_broken_animations_are_named(tmp_path: Path) -> None:
    first, *rest = pictures([(60, 40)] * 4)
    for kind in ("GIF", "WEBP", "PNG", "AVIF"):
        first.save(tmp_path / "whole", kind, save_all=True, append_images=rest)
        content = (tmp_path / "whole").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(content[: 2 * len(content) // 3])
        with pytest.raises(MediaError, match=rf"cut\.{kind} (cannot be decoded|is no readable picture)"):
            load_clip(tmp_path / f"cut.{kind}")


# --------------------------------------------------------------------------------------------------- folders of frames


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / f"{number}.jpg", quality=100)
        (tmp_path / f"._{number}.jpg").write_bytes(b"\x00\x05\x16\x07" + bytes(90))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "more.jpg").mkdir()
    assert len(load_clip(tmp_path)) == 3
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "absent.jpg")  # a frame that is missing is told, not left out
    with pytest.raises(MediaError, match=r"broken\.jpg does not exist"):
        load_clip(tmp_path)
