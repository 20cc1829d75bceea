from __future__ import annotations

import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from llave_hf.data.media import MediaError, load_sample, open_image, open_video, resolve_media_path
from llave_hf.data.samples import Sample


def test_opens_a_picture_in_its_own_mode(root: Path) -> None:
    Image.new("RGBA", (5, 4), (255, 0, 0, 128)).save(root / "images" / "half.png")
    assert open_image("images/half.png", root).getpixel((0, 0)) == (255, 0, 0, 128)
    assert open_image("images/red.png", root).size == (12, 10)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.png", "leaves media_root by '..'"),
        ("images/../../secret.png", "leaves media_root by '..'"),
        ("images\\..\\..\\secret.png", "leaves media_root by '..'"),
        ("/etc/passwd", "is an absolute path"),
        ("C:\\secret.png", "is an absolute path"),
        ("\\\\server\\share.png", "is an absolute path"),
        ("https://example.org/a.png", "is an address"),
        ("file:///etc/passwd", "is an address"),
        ("images/a\0.png", "zero byte"),
        ("images/white.png", "does not exist"),
        ("images/red.png/a.png", "cannot be opened|does not exist"),
        ("a" * 5000, "cannot be opened"),
    ],
)
def test_refuses_paths_that_leave_the_root_or_lead_nowhere(root: Path, path: str, message: str) -> None:
    (root.parent / "secret.png").write_bytes((root / "images" / "red.png").read_bytes())
    with pytest.raises(MediaError, match=message):
        open_image(path, root)
    with pytest.raises(MediaError, match=message):
        open_video(path, root)


def test_refuses_links_that_lead_out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (4, 4)).save(outside / "secret.png")
    (root / "images" / "file.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    (root / "video" / "clip" / "3.png").symlink_to(outside / "secret.png")
    for path in ("images/file.png", "folder/secret.png"):
        with pytest.raises(MediaError, match="is a link that leads out"):
            open_image(path, root)
    with pytest.raises(MediaError, match=r"clip/3.png' is a link that leads out"):
        open_video("video/clip", root)


def test_follows_links_inside_the_root_and_a_root_that_is_a_link(root: Path) -> None:
    (root / "images" / "again.png").symlink_to(root / "images" / "red.png")
    link = root.parent / f"{root.name}-link"
    link.symlink_to(root)
    assert open_image("images/again.png", link).size == (12, 10)


def test_without_a_root_the_caller_vouches_for_the_path(root: Path) -> None:
    assert open_image(str(root / "images" / "red.png"), None).size == (12, 10)
    with pytest.raises(MediaError, match="is an address"):
        resolve_media_path("https://example.org/a.png", None)


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated", None),
        ("bomb", _png_header(100_000, 100_000)),
        ("large", _png_header(15_000, 15_000)),
        ("text", b"no picture at all"),
        ("empty", b""),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"),
    ],
)
def test_refuses_broken_and_oversized_pictures(root: Path, name: str, content: bytes | None) -> None:
    if content is None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "whole.png")
        content = (root / "whole.png").read_bytes()[:2000]
    (root / f"{name}.png").write_bytes(content)
    with pytest.raises(MediaError, match=f"{name}.png"):
        open_image(f"{name}.png", root)


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 2)])
def test_refuses_pictures_of_absurd_shape(root: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(root / "odd.png")
    with pytest.raises(MediaError, match=f"odd.png is {size[0]} x {size[1]} pixels"):
        open_image("odd.png", root)


def _colours(frames: list[Image.Image]) -> list[tuple[int, ...]]:
    return [frame.convert("RGB").getpixel((0, 0)) for frame in frames]


def test_frames_of_a_folder_come_in_natural_order(root: Path) -> None:
    assert _colours(open_video("video/clip", root)) == [(255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0)]
    assert _colours(open_video("video/clip", root, num_frames=2)) == [(255, 0, 0), (0, 0, 0)]


def test_frames_of_a_file_are_spread_over_its_length(root: Path) -> None:
    with av.open(str(root / "grey.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for level in range(40):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level * 6, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    levels = [colour[0] for colour in _colours(open_video("grey.mp4", root, num_frames=4))]
    assert np.abs(np.array(levels) - np.array([0, 78, 156, 234])).max() <= 8
    assert len(open_video("grey.mp4", root)) == 14  # three a second of 4 seconds: every third of 40
    (root / "broken.mp4").write_bytes((root / "grey.mp4").read_bytes()[:300])
    with pytest.raises(MediaError, match=r"broken.mp4"):
        open_video("broken.mp4", root)


def test_loads_what_a_sample_has(root: Path) -> None:
    loaded = load_sample(Sample("t", ("images/red.png", "images/blue.png"), "video/clip", str(root)), max_frames=2)
    assert loaded["text"] == "t"
    assert [image.size for image in loaded["images"]] == [(12, 10)] * 2
    assert len(loaded["video"]) == 2
    assert load_sample(Sample("t")) == {"text": "t"}
