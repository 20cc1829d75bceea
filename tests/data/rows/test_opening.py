from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import hub_snapshot, picture
from PIL import Image

from llave_hf.data import load_pairs
from llave_hf.data.media import MediaError, load_sample, locate, open_image, open_video, resolve_media_path
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


# -------------------------------------------------------------------------------------------------------- other forms


def _png() -> bytes:
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    return stream.getvalue()


def _data_uri() -> str:
    return "data:image/png;base64," + base64.b64encode(_png()).decode()


def test_what_holds_a_picture_itself_needs_no_root(root: Path) -> None:
    structure = {"bytes": _png(), "path": "../../name.png"}  # a name alone
    for source in (_png(), memoryview(_png()), structure, _data_uri(), picture()):
        for media_root in (root, None):
            assert np.array_equal(np.asarray(open_image(source, media_root)), np.asarray(picture()))
    for path in ({"bytes": None, "path": "images/red.png"}, {"path": "images/red.png"}, Path("images/red.png")):
        assert open_image(path, root).size == (12, 10)
    for path in ("../secret.png", "https://x.org/a.png", "/etc/passwd"):
        with pytest.raises(MediaError):
            open_image({"bytes": None, "path": path}, root)
    assert open_video({"bytes": None, "path": "video/clip"}, root, num_frames=2)
    assert locate(_data_uri(), root) == _data_uri()


def test_a_row_may_hold_its_picture(root: Path) -> None:
    rows = [
        {"qry": "<|image_1|>\nwhat", "qry_image_path": _data_uri(), "pos_text": "p"},
        {"qry": "<|image_1|>\nwhat", "qry_image_path": "images/red.png", "pos_text": "p"},
    ]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = load_pairs(str(root / "train.jsonl"), media_root=str(root))
    opened = [load_sample(pair.query)["images"][0].size for pair in pairs]
    assert opened == [(40, 30), (12, 10)]
    (root / "train.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert load_sample(load_pairs(str(root / "train.jsonl"))[0].query)["images"][0].size == (40, 30)


def test_a_photo_is_upright(root: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    picture().save(root / "phone.jpg", exif=tag)
    assert open_image("phone.jpg", root).size == (30, 40)
    assert load_sample(Sample("", ("phone.jpg",), None, str(root)))["images"][0].size == (30, 40)


def test_frames_keep_their_times(root: Path) -> None:
    frames = [Image.new("RGB", (16, 12), (level,) * 3) for level in (0, 60, 120)]
    frames[0].save(root / "a.gif", save_all=True, append_images=frames[1:], duration=[2000, 5000, 100])
    assert load_sample(Sample("", (), "a.gif", str(root)))["video"].seconds == pytest.approx([0, 2, 7])
    assert load_sample(Sample("", (), "video/clip", str(root)))["video"].seconds is None


# ------------------------------------------------------------------------------------------------- the Hub's own cache


def test_a_snapshot_of_the_hubs_cache_holds_its_files(tmp_path: Path) -> None:
    rows = [{"qry": "<|image_1|>", "qry_image_path": "images/a.png", "pos_text": "p"}]
    files = {"images/a.png": _png(), "clip/1.png": _png(), "clip/2.png": _png()}
    snapshot = hub_snapshot(tmp_path, {**files, "train.jsonl": json.dumps(rows[0]).encode()})
    link = tmp_path / "data"
    link.symlink_to(snapshot)
    for root in (snapshot, link):
        (pair,) = load_pairs(str(root / "train.jsonl"), media_root=str(root))
        assert load_sample(pair.query)["images"][0].size == (40, 30)
        assert load_pairs(str(root))[0].query.images == ("images/a.png",)
        assert open_image("a.png", root / "images").size == (40, 30)
        assert len(open_video("clip", root)) == 2
        assert resolve_media_path("images/a.png", root).name == "a.png"  # and not a blob's digest
    with pytest.raises(MediaError, match=r"images/b\.png.* cannot be decoded"):
        blob = (snapshot / "images/a.png").resolve()
        (blob.parent / "b").write_bytes(_png()[:900])
        (snapshot / "images/b.png").symlink_to("../../../blobs/b")
        open_image("images/b.png", snapshot)


def test_a_snapshot_leads_nowhere_else(tmp_path: Path) -> None:
    snapshot = hub_snapshot(tmp_path, {"a.png": _png()})
    other = hub_snapshot(tmp_path, {"b.png": _png()}, "datasets--me--other")
    (tmp_path / "secret.png").write_bytes(_png())
    (snapshot / "other.png").symlink_to((other / "b.png").resolve())
    (snapshot / "secret.png").symlink_to(tmp_path / "secret.png")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main.png").write_bytes(_png())
    (snapshot / "refs.png").symlink_to("../../refs/main.png")
    plain = tmp_path / "snapshots" / "one"  # no folder of the Hub's cache
    plain.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "c").write_bytes(_png())
    (plain / "c.png").symlink_to("../../blobs/c")
    for name, root in (("other.png", snapshot), ("secret.png", snapshot), ("refs.png", snapshot), ("c.png", plain)):
        with pytest.raises(MediaError, match="is a link that leads out"):
            open_image(name, root)
