"""Every form in which people hold a picture or a clip opens as the same picture or clip."""

from __future__ import annotations

import base64
import io
import threading
import urllib.parse
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset
from datasets import Image as HubImage
from helpers import picture, pictures, write_video
from PIL import Image

from llave_hf.model.media_llave import Clip, MediaError, load_clip, load_image
from llave_hf.model.media_pictures_llave import as_sequence, picture_size


def png(image: Image.Image | None = None) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, "PNG")
    return stream.getvalue()


def zipped(content: bytes) -> Any:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", content)
    return zipfile.ZipFile(stream).open("a.png")


class Pipe:
    """A stream that cannot be sought, as of a socket or a process."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


FORMS: dict[str, Callable[[bytes], Any]] = {
    "bytes": lambda content: content,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "strided memoryview": lambda content: memoryview(b"".join(bytes([byte, 0]) for byte in content))[::2],
    "BytesIO": io.BytesIO,
    "file in a zip": zipped,
    "pipe": Pipe,
    "Hub structure": lambda content: {"bytes": content, "path": "a/name/alone.png"},
    "Hub structure without a name": lambda content: {"bytes": content, "path": None},
    "structure of bytes alone": lambda content: {"bytes": bytearray(content)},
    "data URI": lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
    "data URI in capitals": lambda content: "DATA:IMAGE/PNG;BASE64," + base64.b64encode(content).decode(),
    "data URI without a type": lambda content: "data:;base64," + base64.b64encode(content).decode(),
    "data URI in lines": lambda content: "data:image/png;base64,\n" + base64.encodebytes(content).decode(),
    "URL-safe data URI": lambda content: "data:image/png;base64," + base64.urlsafe_b64encode(content).decode(),
    "data URI without padding": lambda c: "data:image/png;base64," + base64.b64encode(c).decode().rstrip("="),
    "percent-encoded base64": lambda c: "data:image/png;base64," + urllib.parse.quote(base64.b64encode(c), safe=""),
    "percent-encoded data URI": lambda content: "data:image/png," + urllib.parse.quote_from_bytes(content),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["picture", "video", "animation"])
def test_every_form_opens(form: str, kind: str, tmp_path: Path) -> None:
    if kind == "picture":
        assert np.array_equal(np.asarray(load_image(FORMS[form](png()))), np.asarray(picture()))
        return
    path = tmp_path / "clip"
    if kind == "video":
        path = write_video(tmp_path / "clip.mp4", levels=range(0, 200, 10))
    else:
        first, *rest = pictures([(20, 16)] * 3)
        first.save(path, "WEBP", save_all=True, append_images=rest, duration=100, lossless=True)
    wanted, found = load_clip(path, num_frames=3), load_clip(FORMS[form](path.read_bytes()), num_frames=3)
    assert len(found) == 3 and found.seconds == wanted.seconds
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_a_structure_without_bytes_is_a_path(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    for path in (str(tmp_path / "a.png"), tmp_path / "a.png", bytes(tmp_path / "a.png")):
        source = {"bytes": None, "path": path} if not isinstance(path, bytes) else tmp_path / path.decode()
        assert load_image(source).size == (40, 30)
    with pytest.raises(MediaError, match="neither bytes nor a path"):
        load_image({"bytes": None, "path": None})
    with pytest.raises(MediaError, match="is an address"):
        load_image({"bytes": None, "path": "https://x.org/a.png"})


def test_what_datasets_encodes_opens() -> None:
    rows = Dataset.from_dict({"image": [picture(), picture(seed=1)]}).cast_column("image", HubImage(decode=False))
    for seed, row in enumerate(rows):
        assert np.array_equal(np.asarray(load_image(row["image"])), np.asarray(picture(seed=seed)))


def test_a_file_object_keeps_its_place_and_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    with open(tmp_path / "a.png", "rb") as file:
        for place in (0, 7, len(png())):  # whoever has just written it stands at its end
            file.seek(place)
            assert load_image(file).size == (40, 30)
            assert file.tell() == place and not file.closed


def test_threads_may_share_a_file_object() -> None:
    shared, found = io.BytesIO(png(picture(200, 150))), []
    workers = [threading.Thread(target=lambda: found.append(load_image(shared).size)) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [(200, 150)] * 16


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"words", "what 5 bytes hold is no readable picture"),
        (io.BytesIO(b"words"), "an object of type BytesIO is no readable picture"),
        (io.StringIO("words"), "an object of type StringIO is open as text; open it in binary mode"),
        ({"bytes": b"words", "path": "a/b.png"}, "a/b.png is no readable picture"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA is no readable picture"),
        ("data:image/png;base64," + "A" * 99 + "!", r"data:image/png;base64,A+\.\.\. is no base64"),
        ("data:image/png;base64", "is no data URI"),
        (png()[:900], "what 900 bytes hold cannot be decoded .*truncated or broken"),
    ],
)
def test_what_cannot_be_opened_is_named_in_one_line(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        load_image(source)
    assert "\n" not in str(caught.value) and " at 0x" not in str(caught.value)


def test_a_closed_file_object_is_refused() -> None:
    stream = io.BytesIO(png())
    stream.close()
    with pytest.raises(MediaError, match=r"an object of type BytesIO cannot be read .*pass it open"):
        load_image(stream)


def test_closed_and_truncated_pictures_are_named_by_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "cut.png").write_bytes(png()[:900])
    with Image.open(tmp_path / "a.png") as never_loaded:
        pass
    loaded = Image.open(tmp_path / "a.png")
    loaded.load()
    loaded.close()
    for closed in (never_loaded, loaded):
        with pytest.raises(MediaError, match=r"a\.png cannot be decoded \(.*closed.*\); pass a picture that is open"):
            load_image(closed)
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(MediaError, match=r"cut\.png cannot be decoded"):
        load_image(cut)


# ------------------------------------------------------------------------------------------------ arrays and tensors


def test_floats_from_0_to_1_are_pictures() -> None:
    pixels = np.asarray(picture())
    exact = pixels.astype(np.float64) / 255
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255  # as torchvision's ToTensor
    for source in (exact, exact.astype(np.float32), tensor, tensor.clone().requires_grad_(), tensor.double()):
        assert np.array_equal(np.asarray(load_image(source)), pixels)
    for source in (exact.astype(np.float16), tensor.bfloat16()):  # coarser than a byte
        assert np.abs(np.asarray(load_image(source)).astype(int) - pixels).max() <= 1
    for source in (exact * 255, exact - 1, np.where(exact > 0.5, np.nan, exact)):
        with pytest.raises(MediaError, match="floats go from 0 to 1"):
            load_image(source)


def test_other_arrays_are_pictures() -> None:
    deep = np.asarray(picture()).astype(np.uint16) * 257
    assert np.array_equal(np.asarray(load_image(deep)), np.asarray(picture()))
    assert np.asarray(load_image(np.eye(4, dtype=bool))).tolist() == (np.eye(4, dtype=int) * 255).tolist()
    assert load_image(torch.zeros(2, 9, 8, dtype=torch.uint8)).mode == "LA"


def test_an_array_that_may_lie_either_way_is_refused() -> None:
    for shape in ((3, 40, 3), (4, 9, 4)):
        with pytest.raises(MediaError, match=r"\(H, W, C\) or \(C, H, W\)\?"):
            load_image(np.zeros(shape, np.uint8))


def test_sizes_are_known_without_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png()[:900])  # whole as far as its header
    for source in (tmp_path / "a.png", png()[:900], picture(), np.asarray(picture()), np.zeros((3, 30, 40))):
        assert picture_size(source) == (40, 30)
    for source in (b"words", "https://x.org/a.png", 7, {"bytes": None, "path": None}):
        assert picture_size(source) is None


# --------------------------------------------------------------------------------------------------------- sequences


def test_several_are_told_from_one() -> None:
    entries = ["a", "b"]
    for several in (entries, tuple(entries), deque(entries), pandas.Series(entries, index=[5, 9]), np.array(entries)):
        assert as_sequence(several) == entries
    assert as_sequence(np.array(entries, dtype=object)) == entries
    assert as_sequence(Dataset.from_dict({"text": entries})["text"]) == entries
    single = ("text", b"bytes", {"bytes": b""}, {"a", "b"}, picture(), np.zeros((4, 4, 3)), torch.zeros(4, 4, 3))
    for one in (*single, io.BytesIO(), Path("a"), None, 7, iter(entries)):
        assert as_sequence(one) is None, one


def test_frames_may_be_given_in_every_form_and_sequence() -> None:
    frames = pictures([(20, 16)] * 5)
    forms = [frames[0], png(frames[1]), io.BytesIO(png(frames[2])), {"bytes": png(frames[3])}, np.asarray(frames[4])]
    column = Dataset.from_dict({"image": frames})["image"]
    for source in (forms, tuple(forms), deque(forms), pandas.Series(forms, index=range(9, 4, -1)), column):
        found = load_clip(source)
        assert found.seconds is None and len(found) == 5
        assert all(np.array_equal(one, other) for one, other in zip(found, frames, strict=True))


def test_a_clip_that_was_opened_before_keeps_its_times() -> None:
    clip = Clip(pictures([(20, 16)] * 4), [0.0, 0.5, 4.0, 9.0])
    assert load_clip(clip).seconds == clip.seconds
    assert load_clip(clip, num_frames=2).seconds == [0.0, 9.0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_still_picture_is_no_clip(kind: str, tmp_path: Path) -> None:
    picture().save(tmp_path / "still", kind)
    for source in (tmp_path / "still", (tmp_path / "still").read_bytes(), Image.open(tmp_path / "still")):
        with pytest.raises(MediaError, match="one still picture"):
            load_clip(source)
