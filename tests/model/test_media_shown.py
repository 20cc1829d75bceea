"""Pictures and clips come out as viewers and players show them: upright, at their depth, in their own time."""

from __future__ import annotations

import io
import struct
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers import picture, pictures
from PIL import Image, ImageOps

from llave_hf.encoding.content_keys import ContentKeys
from llave_hf.model.media_llave import MediaError, load_clip, load_image, sample_frames, to_rgb

ORIENTATION = 0x0112


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(to_rgb(image))


# ------------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_upright_in_every_form(kind: str, orientation: int, tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    picture().save(tmp_path / "photo", kind, exif=tag, **options)
    with Image.open(tmp_path / "photo") as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    content = (tmp_path / "photo").read_bytes()
    for source in (tmp_path / "photo", content, Image.open(io.BytesIO(content)), load_image(content)):
        found = load_image(source)
        assert np.array_equal(pixels(found), wanted)
        assert found.getexif().get(ORIENTATION, 1) == 1  # so that nobody turns it once more
        assert np.array_equal(pixels(load_image(found)), wanted)
    (frame,) = load_clip([tmp_path / "photo"])
    assert np.array_equal(pixels(frame), wanted)


def test_a_picture_is_not_changed_by_being_opened() -> None:
    tag = Image.Exif()
    tag[ORIENTATION] = 6
    stream = io.BytesIO()
    picture().save(stream, "JPEG", exif=tag)
    opened = Image.open(stream)
    assert load_image(opened).size == (30, 40)
    assert opened.size == (40, 30) and opened.getexif()[ORIENTATION] == 6


def test_an_orientation_in_xmp_counts() -> None:
    stream, other = io.BytesIO(), io.BytesIO()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="8"/></x:xmpmeta>'
    picture().save(stream, "JPEG", xmp=xmp)
    picture().save(other, "JPEG")
    found = load_image(stream)
    assert np.array_equal(pixels(found), np.rot90(pixels(load_image(other))))
    assert np.array_equal(pixels(load_image(found)), pixels(found))


def test_broken_metadata_are_as_good_as_none() -> None:
    stream = io.BytesIO()
    picture().save(stream, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x09\0\0\0\0")
    assert np.array_equal(pixels(load_image(stream)), np.asarray(picture()))
    stream = io.BytesIO()
    picture().save(stream, "PNG", exif=b"no exif at all")
    assert np.array_equal(pixels(load_image(stream)), np.asarray(picture()))


def test_the_orientation_is_part_of_the_content_key(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[ORIENTATION] = 6
    square = picture(30, 30)
    square.save(tmp_path / "plain.png")
    square.save(tmp_path / "turned.png", exif=tag)
    keys = ContentKeys()
    plain, turned = (Image.open(tmp_path / name) for name in ("plain.png", "turned.png"))
    assert keys.key(plain) == keys.key(square) != keys.key(turned)
    assert keys.key(turned) == keys.key(ImageOps.exif_transpose(turned))
    assert keys.key(tmp_path / "plain.png") != keys.key(tmp_path / "turned.png")
    contents = [(tmp_path / name).read_bytes() for name in ("plain.png", "turned.png")]
    assert keys.key(contents[0]) != keys.key(contents[1])
    assert keys.key(contents[0]) == keys.key(bytearray(contents[0])) == keys.key(io.BytesIO(contents[0]))
    assert keys.key({"bytes": contents[0], "path": "x"}) == keys.key({"bytes": contents[0], "path": None})


def test_animated_pictures_with_one_first_frame_have_keys_of_their_own() -> None:
    first, second, third = pictures([(20, 16)] * 3)
    opened = []
    for last in (second, third):
        stream = io.BytesIO()
        first.save(stream, "WEBP", save_all=True, append_images=[last])
        opened.append(Image.open(stream))
    keys = ContentKeys()
    assert keys.key({"video": opened[0]}) != keys.key({"video": opened[1]})


# --------------------------------------------------------------------------------------------------- modes and depths


def deep(levels: list[int]) -> np.ndarray:
    return np.tile(np.array(levels, np.uint16), (4, 1))


LEVELS = [0, 255, 256, 32768, 65535]
SHOWN = [0, 0, 1, 128, 255]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def netpbm(levels: list[int]) -> bytes:
    values = deep(levels)
    return b"P5\n%d %d\n65535\n" % values.shape[::-1] + values.astype(">u2").tobytes()


def tiff(rows: list[list[int]], bits: int, order: str = ">") -> bytes:
    """An uncompressed grey TIFF, written by hand: Pillow writes no 12 bits, and no 16 in that order."""
    lines = ["".join(f"{value:0{bits}b}" for value in row) for row in rows]
    padded = [line + "0" * (-len(line) % 8) for line in lines]
    data = b"".join(int(line[i : i + 8], 2).to_bytes(1, "big") for line in padded for i in range(0, len(line), 8))
    tags = [(256, len(rows[0])), (257, len(rows)), (258, bits), (259, 1), (262, 1), (273, 0)]
    tags += [(277, 1), (278, len(rows)), (279, len(data))]
    offset = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack(order + "HHII", tag, 4, 1, offset if tag == 273 else value)
        if tag in (273, 279)
        else struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags
    )
    head = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(order + "IH", 8, len(tags))
    return head + entries + bytes(4) + data


@pytest.mark.parametrize(
    "source",
    [
        encoded(Image.fromarray(deep(LEVELS)), "PNG"),
        encoded(Image.fromarray(deep(LEVELS)), "TIFF"),
        netpbm(LEVELS),
        tiff([LEVELS] * 4, 16),
        Image.fromarray(deep(LEVELS)),
        Image.fromarray(deep(LEVELS).astype(np.int32)),
        Image.frombytes("I;16B", (5, 4), deep(LEVELS).astype(">u2").tobytes()),
        Image.frombytes("I;16L", (5, 4), deep(LEVELS).astype("<u2").tobytes()),
    ],
    ids=["PNG", "TIFF", "PPM", "big-endian TIFF", "I;16", "I", "I;16B", "I;16L"],
)
def test_16_bits_of_grey_are_scaled(source: Any) -> None:
    found = load_image(source)
    assert found.mode == "L"
    assert pixels(found)[0, :, 0].tolist() == SHOWN
    if isinstance(source, Image.Image):
        assert pixels(source)[0, :, 0].tolist() == SHOWN


def test_a_tiff_says_how_many_bits_and_which_end_is_white() -> None:
    assert pixels(load_image(tiff([[0, 4095], [2048, 16]], 12, "<")))[..., 0].tolist() == [[0, 255], [128, 1]]
    content = encoded(Image.fromarray(deep(LEVELS)), "TIFF", tiffinfo={262: 0})
    assert pixels(load_image(content))[0, :, 0].tolist() == [255 - level for level in SHOWN]


def test_dark_deep_pictures_stay_dark() -> None:
    assert pixels(load_image(netpbm([0, 100, 255]))).max() == 0  # Pillow says mode I, as for numbers of any size


def test_numbers_of_32_bits_are_shown_where_they_say_what_is_white() -> None:
    for levels, shown in (
        (np.array([[0, 7], [200, 255]], np.int32), [[0, 7], [200, 255]]),
        (np.array([[0, 0.5], [0.25, 1]], np.float32), [[0, 128], [64, 255]]),
        (np.array([[0, 7.4], [200, 255]], np.float32), [[0, 7], [200, 255]]),
    ):
        for source in (Image.fromarray(levels), encoded(Image.fromarray(levels), "TIFF")):
            assert pixels(load_image(source))[..., 0].tolist() == shown
    for levels in (
        np.array([[0, 70000], [1, 2]], np.int32),
        np.array([[-1, 5], [1, 2]], np.int32),
        np.array([[0, 256], [1, 2]], np.float32),
        np.array([[-0.1, 1], [1, 0]], np.float32),
        np.array([[np.nan, 1], [1, 0]], np.float32),
        np.array([[np.inf, 1], [1, 0]], np.float32),
    ):
        with pytest.raises(MediaError, match=r"a PIL image has the mode [IF] and levels from .* what is white"):
            load_image(Image.fromarray(levels))


def test_colours_that_were_multiplied_by_alpha_are_divided_again() -> None:
    straight = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    assert np.abs(pixels(load_image(straight.convert("RGBa"))).astype(int) - [200, 100, 50]).max() <= 1
    grey = Image.new("LA", (4, 4), (200, 128))
    assert np.abs(pixels(load_image(grey.convert("La"))).astype(int) - 200).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_shown_as_pillow_shows_them(mode: str) -> None:
    source = picture().convert("RGBA" if mode == "PA" else "RGB").convert("P" if mode == "PA" else mode).convert(mode)
    assert np.array_equal(pixels(load_image(source)), np.asarray(source.convert("RGB")))


def test_lab_is_shown_as_colours() -> None:
    red = Image.new("LAB", (4, 4), (136, 208, 195))  # sRGB's red has L 53 (of 100), a 80, b 67
    for source in (red, encoded(red, "TIFF")):
        assert np.abs(pixels(load_image(source))[0, 0].astype(int) - [255, 0, 0]).max() <= 12


def test_palettes_with_any_transparency_show_their_colours_without_a_warning() -> None:
    source = picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    wanted = np.asarray(source.convert("RGB"))
    for transparency in (0, bytes(range(0, 160, 10))):
        for form in (source, Image.open(io.BytesIO(encoded(source, "PNG", transparency=transparency)))):
            form.info["transparency"] = transparency
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert np.array_equal(pixels(load_image(form)), wanted)


def test_a_cmyk_photo_is_no_negative() -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 20)).convert("CMYK")
    found = pixels(load_image(encoded(red, "JPEG", quality=98)))  # with Adobe's marker and inverted
    assert np.abs(found.astype(int) - [220, 30, 20]).max() <= 6


def test_16_bits_of_colour_lose_their_lower_ones() -> None:
    values = np.tile(np.array([[65535, 32768, 256]], ">u2"), (4, 4, 1))
    content = b"P6\n4 4\n65535\n" + values.tobytes()
    assert np.abs(pixels(load_image(content))[0, 0].astype(int) - [255, 128, 1]).max() <= 1


def test_a_phones_picture_with_a_second_one_behind_it_shows_the_first() -> None:
    first, second = pictures([(40, 30), (40, 30)])
    content = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert np.array_equal(pixels(load_image(content)), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


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


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
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
    for kind in ("GIF", "WEBP", "PNG"):
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
