"""What is opened, and above all what is refused."""

from __future__ import annotations

import functools
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llave_hf.model import media_pictures_llave
from llave_hf.model.media_llave import MediaError, load_frames, load_image, sample_frames, to_rgb


@functools.cache
def _encoded(kind: str, image: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind)
    return buffer.getvalue()


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_that_claims(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"".join(chunks) + _png_chunk(b"IDAT", zlib.compress(b"\0" * 64)) + _png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + body


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_opens_common_formats_and_closes_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(_encoded(kind))
    image = load_image(path)
    path.unlink()
    assert to_rgb(image).size == (40, 30)


@pytest.mark.parametrize("make", [str, Path], ids=["str", "Path"])
def test_opens_paths(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "picture.png"
    picture().save(path)
    assert np.array_equal(np.asarray(load_image(make(path))), np.asarray(picture()))


def test_arrays_and_tensors_are_pictures_in_either_layout() -> None:
    pixels = np.array(picture())
    for source in (
        pixels,
        pixels.transpose(2, 0, 1),
        torch.from_numpy(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
    ):
        assert np.array_equal(np.asarray(load_image(source)), pixels)
    assert load_image(pixels[..., 0]).mode == load_image(pixels[..., :1]).mode == "L"


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 4, 3), np.int64),
        np.zeros((6, 6, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
    ids=["whole numbers", "five channels", "one dimension", "four dimensions"],
)
def test_arrays_that_are_no_picture_are_refused(source: Any) -> None:
    with pytest.raises(MediaError, match="a picture is an array of uint8"):
        load_image(source)


@pytest.mark.parametrize("source", [7, None, {"image": 1}, {}, [[1, 2]]])
def test_what_is_no_picture_is_refused(source: Any) -> None:
    with pytest.raises(MediaError, match=f"a picture is given as {type(source).__name__}; give a path, bytes, "):
        load_image(source)


def test_transparency_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    assert to_rgb(image).getpixel((0, 0)) == (200, 100, 50)
    palette = picture(mode="P")
    palette.info["transparency"] = 0
    assert np.array_equal(np.asarray(to_rgb(palette)), np.asarray(picture(mode="P").convert("RGB")))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 256], [32768, 65535]], dtype=np.uint16))
    assert np.asarray(to_rgb(image))[..., 0].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (8, 6))
    assert to_rgb(load_image(image)).mode == "RGB"


@pytest.mark.parametrize(
    "address",
    ["http://x.org/a.png", "https://x.org/a.mp4", "s3://bucket/a.png", "file:///etc/a.png"],
)
def test_addresses_are_refused(address: str) -> None:
    for load in (load_image, load_frames):
        with pytest.raises(MediaError, match="is an address; only local files are opened"):
            load(address)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for load in (load_image, load_frames):
        with pytest.raises(MediaError, match=r"none\.png does not exist"):
            load(tmp_path / "none.png")


def test_a_truncated_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(_encoded("PNG")[:900])
    with pytest.raises(MediaError, match=r"cut\.png cannot be decoded .*truncated or broken"):
        load_image(path)


def test_a_file_that_breaks_behind_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.ppm"
    path.write_bytes(b"P3\n4 4\n255\n" + b"no number " * 48)  # Pillow raises a ValueError, not an OSError
    with pytest.raises(MediaError, match=r"broken\.ppm cannot be decoded"):
        load_image(path)


def test_every_format_is_one_that_pillow_opens() -> None:
    Image.init()
    assert set(media_pictures_llave.IMAGE_FORMATS) <= set(
        Image.OPEN
    )  # another name would break the refusal of bad files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("note.png", b"just words"),
        ("empty.png", b""),
        ("page.png", b"%PDF-1.4\n1 0 obj\n"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("icon.png", _encoded("ICO")),  # Pillow reads it; here it is not among the formats
    ],
)
def test_other_formats_are_refused_whatever_their_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=rf"{name} is no readable picture \(cannot identify"):
        load_image(tmp_path / name)


@pytest.mark.parametrize("size", [(10_000, 9_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_small_file_that_claims_a_huge_picture_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_that_claims(*size))
    with pytest.raises(MediaError, match=r"bomb\.png .*(pixels|scale it down)"):
        load_image(path)


def test_a_text_chunk_that_swells_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swelling.png"
    path.write_bytes(_png_that_claims(8, 8, _png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 5_000_000))))
    with pytest.raises(MediaError, match=r"swelling\.png"):
        load_image(path)


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (2, 30_000)])
def test_slivers_are_refused_in_every_form(tmp_path: Path, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    image.save(tmp_path / "sliver.png")
    for source in (image, tmp_path / "sliver.png", np.asarray(image), [image]):
        with pytest.raises(MediaError, match=f"{size[0]} x {size[1]} pixels"):
            load_frames(source) if isinstance(source, list) else load_image(source)


@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0.1, 1),
)
@settings(max_examples=150)
def test_damaged_files_give_a_picture_or_a_media_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damage: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(_encoded(kind))
    for place, value in damage:
        content[int(place * len(content))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: int(kept * len(content))])
    try:
        image = load_image(path)
    except MediaError as error:
        assert str(path) in str(error)
    else:
        assert to_rgb(image).mode == "RGB"


# ------------------------------------------------------------------------------------------------------ videos


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "mpeg4"), ("clip.mkv", "mpeg4"), ("clip.avi", "mpeg4")])
def test_video_files_give_frames_in_order(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, levels=range(0, 200, 10), codec=codec)
    levels = [frame.getpixel((9, 9))[0] for frame in load_frames(path, num_frames=5)]
    assert levels == pytest.approx([0, 40, 90, 140, 190], abs=4)
    assert len(load_frames(path)) == 7  # 20 frames, 10 a second: every third
    assert len(load_frames(path, max_frames=4)) == 4


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), (level, level, level)) for level in (0, 100, 200)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    levels = [frame.getpixel((3, 3))[0] for frame in load_frames(tmp_path / "clip.gif", num_frames=3)]
    assert levels == pytest.approx([0, 100, 200], abs=4)


def test_a_folder_gives_its_frames_in_natural_order(tmp_path: Path) -> None:
    for level in (1, 2, 10):
        Image.new("RGB", (4, 4), (level,) * 3).save(tmp_path / f"frame_{level}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert [frame.getpixel((0, 0))[0] for frame in load_frames(tmp_path)] == [1, 2, 10]


def test_lists_and_arrays_are_videos() -> None:
    frames = [picture(seed=seed) for seed in range(3)]
    pixels = np.stack([np.asarray(frame) for frame in frames])
    for source in (frames, tuple(frames), pixels, pixels.transpose(0, 3, 1, 2), torch.from_numpy(pixels)):
        loaded = load_frames(source)
        assert all(np.array_equal(a, b) for a, b in zip(loaded, frames, strict=True))


@pytest.mark.parametrize("source", [picture(), np.zeros((9, 9, 3), np.uint8), 7, {"video": []}])
def test_what_is_no_video_is_refused(source: Any) -> None:
    with pytest.raises(MediaError, match="a video is given as"):
        load_frames(source)


def test_broken_and_empty_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("no video")
    content = write_video(tmp_path / "good.mp4", levels=range(20)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 3])
    for name in ("words.mp4", "cut.mp4"):
        with pytest.raises(MediaError, match=rf"{name}.* cannot be decoded"):
            load_frames(tmp_path / name)
    (tmp_path / "folder").mkdir()
    for source in (tmp_path / "folder", [], np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(MediaError, match="has no frame"):
            load_frames(source)


def test_a_video_in_an_unknown_coding_is_refused(tmp_path: Path) -> None:
    content = write_video(tmp_path / "clip.avi", levels=range(20)).read_bytes()
    (tmp_path / "clip.avi").write_bytes(content.replace(b"FMP4", b"zzzz"))
    with pytest.raises(MediaError, match=r"clip\.avi holds a video in an unknown coding"):
        load_frames(tmp_path / "clip.avi")


def test_a_sound_file_is_refused(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "sound.mp4"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\0" * 800)
    with pytest.raises(MediaError, match=r"sound\.mp4"):
        load_frames(tmp_path / "sound.mp4")


@pytest.mark.parametrize(
    "playlist", ["ffconcat version 1.0\nfile good.mp4\n", "#EXTM3U\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n"]
)
def test_a_playlist_that_names_another_file_is_refused(tmp_path: Path, playlist: str) -> None:
    write_video(tmp_path / "good.mp4", levels=range(20))
    (tmp_path / "list.mp4").write_text(playlist)
    with pytest.raises(MediaError, match=r"list\.mp4 cannot be decoded"):
        load_frames(tmp_path / "list.mp4")


def test_a_video_of_too_many_pixels_a_frame_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", levels=range(4))
    monkeypatch.setattr(media_pictures_llave, "MAX_PIXELS", 100)
    with pytest.raises(MediaError, match="over the limit of 100"):
        load_frames(path)


# ---------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    ("total", "fps", "expected"),
    [
        (10, 3.0, list(range(10))),
        (10, 30.0, [0]),
        (31, 30.0, [0, 10, 20, 30]),
        (5, 1.0, [0, 1, 2, 3, 4]),  # the published loader fails under 1.5 frames a second
        (5, None, [0, 1, 2, 3, 4]),
        (300, 3.0, np.linspace(0, 299, 32, dtype=int).tolist()),
    ],
)
def test_three_frames_a_second_and_at_most_32(total: int, fps: float | None, expected: list[int]) -> None:
    assert sample_frames(total, fps) == expected


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 64))
def test_sampled_frames_rise_from_first_to_last(total: int, num_frames: int, max_frames: int) -> None:
    indices = sample_frames(total, 25.0, num_frames, max_frames)
    assert len(indices) == min(total, num_frames, max_frames)
    assert indices[0] == 0
    assert indices == sorted(set(indices))
    assert len(indices) == 1 or indices[-1] == total - 1


@pytest.mark.parametrize("field", ["num_frames", "max_frames"])
def test_no_frames_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0"):
        load_frames([picture()], **{field: 0})


SAMPLINGS = json.loads((Path(__file__).parents[1] / "fixtures" / "metrics" / "video_frame_sampling.json").read_text())[
    "cases"
]


@pytest.mark.parametrize("case", SAMPLINGS, ids=lambda case: f"{case['total_frames']} at {case['avg_fps']}")
def test_the_published_loaders_frames(case: dict[str, Any]) -> None:
    most = case["frames_upbound"] or case["total_frames"]
    found = sample_frames(case["total_frames"], case["avg_fps"], None, most, case["video_fps"])
    if "error" in case:  # under 1.5 frames a second the published loader fails
        assert len(found) == most
    else:
        assert found == case["frame_indices"]
