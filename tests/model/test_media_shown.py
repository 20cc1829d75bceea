"""Pictures come out as viewers show them: upright, at their depth, in their colours."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture, pictures
from PIL import Image, ImageFile, ImageOps

from llave_hf.encoding.content_keys import ContentKeys
from llave_hf.model.media_llave import MediaError, load_clip, load_image, to_rgb

ORIENTATION = 0x0112


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(to_rgb(image))


# ------------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_upright_in_every_form(kind: str, orientation: int, tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    picture().save(tmp_path / "photo", kind, exif=tag, **options)
    with Image.open(tmp_path / "photo") as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    content = (tmp_path / "photo").read_bytes()
    if kind == "AVIF" and orientation > 1:  # which says it outside of EXIF
        assert b"irot" in content or b"imir" in content
    assert wanted.shape == ((30, 40, 3) if orientation < 5 else (40, 30, 3))
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


def test_a_see_through_avif_shows_its_colours() -> None:
    shown = Image.new("RGBA", (40, 30), (200, 40, 90, 255))
    shown.paste((200, 40, 90, 0), (0, 0, 20, 30))
    stream = io.BytesIO()
    shown.save(stream, "AVIF", quality=100)
    assert load_image(stream).mode == "RGBA"
    assert np.abs(pixels(load_image(stream)).astype(int) - (200, 40, 90)).max() <= 4


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1", b"msf1"])
def test_a_heic_says_what_it_takes(brand: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(40)
    (tmp_path / "photo.heic").write_bytes(content)
    for source in (tmp_path / "photo.heic", content):
        with pytest.raises(MediaError, match=r"is a HEIC picture; .*\(pip install pillow-heif\)"):
            load_image(source)

    class Heif(ImageFile.ImageFile):
        """Stands for what pillow-heif registers."""

        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (4, 3), "RGB"
            self.tile = [ImageFile._Tile("raw", (0, 0, 4, 3), 12, "RGB")]

    monkeypatch.setitem(Image.OPEN, "HEIF", (Heif, lambda start: start[4:8] == b"ftyp"))
    for source in (tmp_path / "photo.heic", content):
        assert load_image(source).size == (4, 3)


def test_a_phones_picture_with_a_second_one_behind_it_shows_the_first() -> None:
    first, second = pictures([(40, 30), (40, 30)])
    content = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert np.array_equal(pixels(load_image(content)), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
