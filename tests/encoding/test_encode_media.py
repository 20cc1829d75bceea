"""What may be given to `encode`: every form and sequence; bad inputs are named, or left out with their reasons."""

from __future__ import annotations

import base64
import io
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from backbones import TIMED, save_backbone
from datasets import Dataset
from helpers import picture, write_video
from PIL import Image
from sentence_transformers import SentenceTransformer

from llave_hf import LlaveModel, LlaveProcessor, LlaveSentenceTransformer
from llave_hf.encoding import LlaveEncoder
from llave_hf.model.media_llave import MediaError, load_clip


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def ours(folder: Path) -> LlaveSentenceTransformer:
    return LlaveSentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def plain(folder: Path) -> LlaveEncoder:
    return LlaveEncoder(LlaveModel.from_pretrained(folder), LlaveProcessor.from_pretrained(folder))


@pytest.fixture(scope="module")
def stock(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


class Pipe(io.RawIOBase):
    """A stream that cannot be sought."""

    def __init__(self, content: bytes) -> None:
        self._rest = content

    def read(self, size: int = -1) -> bytes:
        content, self._rest = self._rest, b""
        return content

    def seekable(self) -> bool:
        return False


def forms(image: Image.Image) -> dict[str, Any]:
    content = png(image)
    return {
        "PIL": image,
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "file object": io.BytesIO(content),
        "pipe": Pipe(content),
        "Hub structure": {"bytes": content, "path": "a.png"},
        "data URI": "data:image/png;base64," + base64.b64encode(content).decode(),
        "array": np.asarray(image),
        "tensor": torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255,
    }


@pytest.mark.parametrize("form", forms(picture()))
def test_every_form_of_a_picture_is_embedded_alike(
    form: str, ours: LlaveSentenceTransformer, plain: LlaveEncoder, stock: SentenceTransformer
) -> None:
    wanted = ours.encode([picture()])
    for encoder in (ours, plain, stock):
        assert np.abs(encoder.encode([{"image": forms(picture())[form]}]) - wanted).max() < 1e-5
    with_text = {"image": forms(picture())[form], "text": "a dog"}
    assert np.abs(ours.encode([with_text]) - ours.encode([{"image": picture(), "text": "a dog"}])).max() < 1e-5
    for encoder in (ours, stock):
        message = [{"role": "user", "content": [{"type": "image", "image": forms(picture())[form]}]}]
        assert np.abs(encoder.encode([message]) - wanted).max() < 1e-5
    for encoder in (ours, plain):
        assert np.abs(encoder.encode([forms(picture())[form]]) - wanted).max() < 1e-5
    assert np.abs(ours.encode(forms(picture())[form]) - wanted[0]).max() < 1e-5  # one alone


def test_paths_alone_are_pictures_and_clips(
    ours: LlaveSentenceTransformer, plain: LlaveEncoder, tmp_path: Path
) -> None:
    picture().save(tmp_path / "a.png")
    video = write_video(tmp_path / "a.mp4", range(0, 100, 10))
    (tmp_path / "frames").mkdir()
    picture().save(tmp_path / "frames" / "0.png")
    for encoder in (ours, plain):
        found = encoder.encode([tmp_path / "a.png", video, tmp_path / "frames", {"bytes": None, "path": str(video)}])
        kinds = [{"image": picture()}, {"video": str(video)}, {"video": [picture()]}, {"video": str(video)}]
        assert np.abs(found - encoder.encode(kinds)).max() < 1e-5


def test_openai_and_transformers_messages(ours: LlaveSentenceTransformer, stock: SentenceTransformer) -> None:
    plain = base64.b64encode(png(picture())).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{plain}", "detail": "low"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{plain}"},
        {"type": "image", "base64": plain},
        {"type": "image", "url": f"data:image/png;base64,{plain}"},
    ]
    for encoder in (ours, stock):
        for part in parts:
            found = encoder.encode([[{"role": "user", "content": [part]}]])
            assert np.abs(found - encoder.encode([picture()])).max() < 1e-5
    for kind, address in (("image_url", "https://x.org/a.png"), ("image_url", "file:///a"), ("video_url", "http://x")):
        part = {"type": kind, kind: {"url": address}}
        with pytest.raises(MediaError, match="is an address; only local files are opened") as raised:
            ours.encode([[{"role": "user", "content": [part]}]])
        assert address in str(raised.value) and "\n" not in str(raised.value)


def test_openais_clips(ours: LlaveSentenceTransformer, stock: SentenceTransformer, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", range(0, 100, 10))
    uri = f"data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode()}"
    for encoder in (ours, stock):
        expected = encoder.encode([{"video": str(video), "text": "what?"}])
        for given in (uri, {"url": uri}, {"url": str(video)}):
            parts = [{"type": "video_url", "video_url": given}, {"type": "text", "text": "what?"}]
            found = encoder.encode([[{"role": "user", "content": parts}]])
            assert np.abs(found - expected).max() < 1e-5


SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "deque": deque,
    "array": lambda entries: np.array(entries, dtype=object),
    "series": lambda entries: pandas.Series(entries, index=[f"row {n}" for n in range(len(entries))]),
    "column": lambda entries: Dataset.from_dict({"x": entries})["x"],
}


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_every_sequence_is_a_list(
    sequence: str, kind: str, ours: LlaveSentenceTransformer, plain: LlaveEncoder
) -> None:
    entries = ["a dog", "a cat", "a dog"] if kind == "text" else [picture(), picture(seed=1), picture()]
    given = SEQUENCES[sequence](entries) if (sequence, kind) != ("array", "image") else _objects(entries)
    for encoder in (ours, plain):
        assert np.abs(encoder.encode(given) - encoder.encode(entries)).max() < 1e-5
    name = "text" if kind == "text" else "images"
    assert torch.equal(ours.processor(**{name: given})["input_ids"], ours.processor(**{name: entries})["input_ids"])
    if kind == "image":
        several = ours.processor(images=[given, None], text=["", "b"])
        assert several["image_sizes"].shape == (3, 2)
        assert np.abs(ours.encode([{"image": given}]) - ours.encode([{"image": entries}])).max() < 1e-5


def _objects(entries: list[Any]) -> np.ndarray:
    made = np.empty(len(entries), dtype=object)
    made[:] = entries
    return made


def test_the_processor_wants_a_sequence_and_names_rows(ours: LlaveSentenceTransformer) -> None:
    for given in ({"text": {"a", "b"}}, {"images": picture()}, {"images": png(picture())}, {"images": iter([1])}):
        with pytest.raises(ValueError, match="give a list with one entry a sample"):
            ours.processor(**given)
    with pytest.raises(MediaError, match=r"^row 1 of the batch: what 5 bytes hold is no readable picture"):
        ours.processor(images=[picture(), b"words"])
    with pytest.raises(MediaError, match=r"^row 2 of the batch: what 5 bytes hold cannot be decoded"):
        ours.processor(videos=[None, [picture()], b"words"], text=["a", "", ""])


def test_one_input_is_no_list_for_the_plain_encoder(plain: LlaveEncoder) -> None:
    for one in ("a dog", b"bytes", {"text": "a dog"}, picture()):
        with pytest.raises(ValueError, match="give a list of inputs, also for one"):
            plain.encode(one)


# --------------------------------------------------------------------------------------------------------- bad inputs


def bad_inputs(root: Path) -> dict[str, Any]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    noise.save(root / "whole.jpg")
    content = (root / "whole.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(root / "whole.jpg") as closed:
        pass
    closed_file = io.BytesIO(content)
    closed_file.close()
    return {
        "missing file": {"image": str(root / "none.jpg")},
        "truncated file": {"image": str(root / "cut.jpg")},
        "truncated picture": Image.open(root / "cut.jpg"),
        "truncated picture in a mapping": {"image": Image.open(root / "cut.jpg"), "text": "x"},
        "closed picture": {"image": closed},
        "closed file object": {"image": closed_file},
        "words for a picture": {"image": b"words"},
        "a text stream": {"image": io.StringIO("words")},
        "no medium": {"image": {"bytes": None, "path": None}},
        "an object": {"image": object()},
        "a wrong key": {"sound": "x"},
        "an empty mapping": {},
        "a number": 7,
        "None": None,
        "not a number": float("nan"),
        "a text that is none": {"text": 3},
        "half a character": "\ud800",
        "floats beyond 1": {"image": np.full((9, 9, 3), 7.0)},
        "a broken video": {"video": b"words"},
        "a list with a bad picture": {"image": [picture(), b"words"]},
    }


def test_a_bad_input_is_named_by_its_place_in_one_line(
    ours: LlaveSentenceTransformer, plain: LlaveEncoder, tmp_path: Path
) -> None:
    for encoder in (ours, plain):
        for name, entry in bad_inputs(tmp_path).items():
            with pytest.raises(ValueError, match=r"^input 2: ") as caught:
                encoder.encode(["fine", "fine too", entry, picture()])
            assert "\n" not in str(caught.value), name
            named = any(word in name for word in ("file", "picture", "video", "pixel", "floats"))
            assert isinstance(caught.value, MediaError) or not named, name
            assert (".jpg" in str(caught.value)) == (name.split()[0] in ("missing", "truncated") or "closed p" in name)


def test_bad_inputs_are_left_out_with_their_reasons(
    ours: LlaveSentenceTransformer, plain: LlaveEncoder, tmp_path: Path
) -> None:
    bad = list(bad_inputs(tmp_path).values())
    good = ["a dog", picture(), {"image": picture(seed=1), "text": "a cat"}, "a dog"]
    inputs = [entry for pair in zip(good * 5, bad, strict=True) for entry in pair]
    for encoder in (ours, plain):
        reasons: dict[int, str] = {}
        vectors = encoder.encode(inputs, on_error="none", reasons=reasons)
        wanted = encoder.encode(good)
        assert isinstance(vectors, list) and len(vectors) == len(inputs)
        assert [place for place, vector in enumerate(vectors) if vector is None] == list(range(1, len(inputs), 2))
        assert list(reasons) == list(range(1, len(inputs), 2))
        assert all(text.startswith(f"input {place}: ") and "\n" not in text for place, text in reasons.items())
        assert np.abs(np.stack(vectors[::2]) - np.tile(wanted, (5, 1))).max() < 1e-5


def test_repeats_of_a_bad_input_all_have_none(ours: LlaveSentenceTransformer, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"words")
    bad = {"image": str(tmp_path / "bad.png")}
    reasons: dict[int, str] = {}
    vectors = ours.encode([bad, "a dog", bad, {"image": b"x"}, dict(bad)], on_error="none", reasons=reasons)
    assert [vector is None for vector in vectors] == [True, False, True, True, True]
    assert [text.split(":")[0] for text in reasons.values()] == [f"input {place}" for place in (0, 2, 3, 4)]
    assert all("bad.png" in reasons[place] for place in (0, 2, 4))


def test_without_a_dictionary_a_warning_gives_the_reasons(
    ours: LlaveSentenceTransformer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("llave_hf"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert ours.encode(["a dog", {"image": b"words"}], on_error="none")[1] is None
    assert "1 of 2 inputs cannot be used and have no vector:\ninput 1: what 5 bytes hold" in caplog.text
    caplog.clear()
    assert len(ours.encode(["a dog"], on_error="none")) == 1
    assert not caplog.text


def test_what_is_returned_where_errors_are_none(ours: LlaveSentenceTransformer, plain: LlaveEncoder) -> None:
    bad = {"image": b"words"}
    reasons: dict[int, str] = {}
    assert ours.encode(bad, on_error="none", reasons=reasons) is None and list(reasons) == [0]
    assert ours.encode("a dog", on_error="none").shape == (24,)
    assert ours.encode([], on_error="none") == plain.encode([], on_error="none") == []
    assert ours.encode([bad, bad], on_error="none", reasons={}) == [None, None]
    tensors = ours.encode(["a dog", bad], on_error="none", reasons={}, convert_to_tensor=True)
    assert isinstance(tensors[0], torch.Tensor) and tensors[1] is None
    listed = ours.encode(["a dog", bad], on_error="none", reasons={}, convert_to_numpy=False)
    assert torch.equal(listed[0], tensors[0])
    small = ours.encode(["a dog", bad], on_error="none", reasons={}, precision="binary", truncate_dim=16)
    assert small[0].dtype == np.int8 and small[0].shape == (2,)
    assert np.array_equal(small[0], ours.encode(["a dog"], precision="binary", truncate_dim=16)[0])
    for method in (ours.encode_query, ours.encode_document):
        assert method(["a dog", bad], on_error="none", reasons={})[1] is None


def test_what_cannot_leave_out_bad_inputs_says_so(ours: LlaveSentenceTransformer, plain: LlaveEncoder) -> None:
    for encoder in (ours, plain):
        with pytest.raises(ValueError, match="on_error is 'skip'; choose 'raise', or 'none'"):
            encoder.encode(["a dog"], on_error="skip")
    with pytest.raises(ValueError, match="works in one process"):
        ours.encode(["a dog"], on_error="none", device=["cpu", "cpu"])
    with pytest.raises(ValueError, match="gives sentence embeddings only"):
        ours.encode(["a dog"], on_error="none", output_value="token_embeddings")
    with pytest.raises(ValueError, match="gives sentence embeddings only"):
        ours.encode(["a dog"], None, None, 8, False, "token_embeddings", on_error="none")


# ----------------------------------------------------------------------------------------------------- times of frames


@pytest.mark.parametrize("kind", TIMED)
def test_a_clip_that_was_opened_before_is_embedded_with_its_times(kind: str, tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", kind)
    model, processor = LlaveModel.from_pretrained(backbone), LlaveProcessor.from_pretrained(backbone)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    frames = [picture(64, 64, seed=seed) for seed in range(4)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[400, 3000, 5000, 100])
    clip = load_clip(tmp_path / "a.webp", num_frames=4)
    ours = LlaveSentenceTransformer(str(tmp_path / "model"), device="cpu")
    plain = LlaveEncoder(ours.transformers_model, ours.processor)
    by_path = processor(videos=[str(tmp_path / "a.webp")], num_frames=4)["input_ids"]
    assert torch.equal(processor(videos=[clip])["input_ids"], by_path)
    assert not torch.equal(processor(videos=[list(clip)])["input_ids"], by_path)
    wanted = plain.encode([{"video": clip, "text": "x"}, {"video": list(clip), "text": "x"}])
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-4
    found = ours.encode([{"video": clip, "text": "x"}, {"video": list(clip), "text": "x"}])
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(ours.encode([{"video": clip}, clip]) - plain.encode([clip, clip])).max() < 1e-5
