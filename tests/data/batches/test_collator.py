from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import tiny_model
from mmeb_rows import COLOURS
from PIL import Image

from llave_hf.data import LlaveCollator, MediaError, Pair, Sample


class RecordingProcessor:
    """A LlaveProcessor whose `unpadded` makes of each sample the bytes of its text; `calls` says what it got."""

    num_frames, max_frames = None, 3
    tokenizer = SimpleNamespace(pad_token_id=0)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def unpadded(
        self, text: list[str], images: list[Any], videos: list[Any], *, as_bytes: bool
    ) -> list[dict[str, torch.Tensor]]:
        self.calls.append({"text": text, "images": images, "videos": videos})
        return [
            {
                "input_ids": torch.tensor([*one.encode("ascii")]),
                **({"image_sizes": torch.tensor([image.size for image in pictures])} if pictures else {}),
                **({"video_num_frames": torch.tensor([len(video)])} if video else {}),
            }
            for one, pictures, video in zip(text, images, videos, strict=True)
        ]


@pytest.fixture
def pairs(root: Path) -> list[Pair]:
    """Six pairs; queries are texts of many lengths, documents are pictures, of which four are distinct."""

    def image(number: int) -> Sample:
        return Sample("\nthe image\n", (f"images/{COLOURS[number % 4]}.png",), None, str(root))

    return [
        Pair(Sample("x" * (7 * i % 13 + 1), media_root=str(root)), image(i), (image(i + 1),) * (i % 3), "task", 10 + i)
        for i in range(6)
    ]


def _decode(batch: dict[str, Any]) -> list[str]:
    """The texts in the rows of the concatenation of all micro-batches."""
    return [bytes(row).rstrip(b"\0").decode() for part in batch["micro_batches"] for row in part["input_ids"].tolist()]


@pytest.mark.parametrize(
    "limits",
    [
        {},
        *({"mini_batch_size": size} for size in (1, 2, 3, 100)),
        *({"mini_batch_num_tokens": n} for n in (1, 30, 90)),
    ],
    ids=str,
)
def test_indices_lead_back_to_each_sample(pairs: list[Pair], limits: dict[str, int]) -> None:
    # The four pictures are told apart by their text here; rows of equal text would be any of them.
    named = [
        Pair(p.query, Sample(p.positive.text + p.positive.images[0], p.positive.images, None, p.positive.media_root))
        for p in pairs
    ]
    named = [
        Pair(p.query, p.positive, tuple(n.positive for n in named[i + 1 : i + 1 + i % 3])) for i, p in enumerate(named)
    ]
    batch = LlaveCollator(RecordingProcessor(), **limits)(named)
    texts = _decode(batch)
    assert len(texts) == len({s for p in named for s in (p.query, p.positive, *p.negatives)}) == 10
    assert [texts[i] for i in batch["query_index"]] == [p.query.text for p in named]
    assert [texts[i] for i in batch["document_index"]] == [p.positive.text for p in named]
    for pair, row in zip(named, batch["negative_index"].tolist(), strict=True):
        assert [texts[i] for i in row if i >= 0] == [s.text for s in pair.negatives]
        assert row[len(pair.negatives) :] == [-1] * (2 - len(pair.negatives))
    for part in batch["micro_batches"]:
        assert part["attention_mask"].sum(1).tolist() == [
            len(bytes(row).rstrip(b"\0")) for row in part["input_ids"].tolist()
        ]
        assert len(part["input_ids"]) <= limits.get("mini_batch_size", 100)
        assert len(part["input_ids"]) == 1 or part["input_ids"].numel() <= limits.get("mini_batch_num_tokens", 10_000)


def test_each_distinct_sample_is_encoded_once(pairs: list[Pair]) -> None:
    processor = RecordingProcessor()
    batch = LlaveCollator(processor)(pairs)
    distinct = {s for p in pairs for s in (p.query, p.positive, *p.negatives)}
    assert len(distinct) == 6 + 4
    assert [len(call["text"]) for call in processor.calls] == [6, 4]  # a kind together
    assert [len(part["input_ids"]) for part in batch["micro_batches"]] == [6, 4]
    assert batch["document_index"][0] == batch["document_index"][4] == batch["negative_index"][5, 0] - 2
    assert batch["document_index"][1] == batch["negative_index"][4, 0]
    assert torch.equal(
        batch["document_ids"] == batch["document_ids"][0], batch["document_index"] == batch["document_index"][0]
    )


def test_ids_are_the_keys(pairs: list[Pair]) -> None:
    batch = LlaveCollator(RecordingProcessor())(pairs)
    assert batch["query_ids"].tolist() == [pair.query.key() for pair in pairs]
    assert batch["document_ids"].tolist() == [pair.positive.key() for pair in pairs]
    assert batch["negative_ids"].tolist() == [
        [s.key() for s in pair.negatives] + [0] * (2 - len(pair.negatives)) for pair in pairs
    ]
    assert {value.dtype for name, value in batch.items() if name != "micro_batches"} == {torch.int64}


def test_kinds_do_not_mix_and_lengths_are_sorted(root: Path, pairs: list[Pair]) -> None:
    video = Sample("\nclip\n", (), "video/clip", str(root))
    both = Sample("\nboth, and more\n", ("images/red.png",), "video/clip", str(root))
    batch = LlaveCollator(RecordingProcessor(), 4)([*pairs, Pair(video, both)])
    found = [
        (len(part["input_ids"]), len(part.get("image_sizes", ())), len(part.get("video_num_frames", ())))
        for part in batch["micro_batches"]
    ]
    assert found == [(3, 0, 0), (3, 0, 0), (4, 4, 0), (2, 1, 2)]
    assert batch["micro_batches"][-1]["video_num_frames"].tolist() == [RecordingProcessor.max_frames] * 2
    lengths = [part["attention_mask"].sum(1).tolist() for part in batch["micro_batches"]]
    assert lengths[0] + lengths[1] == sorted(lengths[0] + lengths[1])
    assert lengths[3] == sorted(lengths[3])


def test_samples_over_the_budget_are_told_of(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr("llave_hf.data.batches.collator.logger.warning_once", messages.append)
    LlaveCollator(RecordingProcessor(), mini_batch_num_tokens=13)(pairs)
    assert not messages
    LlaveCollator(RecordingProcessor(), mini_batch_num_tokens=9)(pairs)
    assert "longer than mini_batch_num_tokens 9 and go through the model alone" in messages[0]


def test_equal_pairs_give_equal_batches(pairs: list[Pair]) -> None:
    one, other = (LlaveCollator(RecordingProcessor(), 2)(list(pairs)) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_without_negatives_there_is_no_entry(pairs: list[Pair]) -> None:
    batch = LlaveCollator(RecordingProcessor())([Pair(p.query, p.positive) for p in pairs])
    of_pairs = {"query_index", "document_index", "query_ids", "document_ids", "labels", "group_ids"}
    assert set(batch) == {"micro_batches", *of_pairs}
    assert batch["group_ids"].tolist() == [-1] * len(pairs)


def test_a_broken_file_is_named_with_source_and_row(root: Path, pairs: list[Pair]) -> None:
    content = (root / "images" / "blue.png").read_bytes()
    (root / "images" / "blue.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=r"^task, row 11: .*images/blue.png"):  # first met as a negative of row 11
        LlaveCollator(RecordingProcessor())(pairs)


def test_a_sample_that_cannot_be_prepared_is_named_too(root: Path) -> None:
    _, processor = tiny_model(processor={"max_length": 24})
    rows = [Pair(Sample("cat"), Sample("", ("images/red.png",), None, str(root)), source="task", row=3)]
    with pytest.raises(ValueError, match=r"^task, row 3: .*over max_length 24"):
        LlaveCollator(processor)(rows)


@pytest.mark.parametrize("name", ["mini_batch_size", "mini_batch_num_tokens"])
def test_refuses_a_limit_of_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        LlaveCollator(RecordingProcessor(), **{name: 0})


def test_bytes_become_the_same_pixels_later(root: Path, pairs: list[Pair]) -> None:
    model, processor = tiny_model()
    pairs = [*pairs, Pair(Sample("\nclip\n", (), "video/clip", str(root)), pairs[0].query)]
    floats, compact = (
        LlaveCollator(processor, 2, as_bytes=as_bytes)(pairs)["micro_batches"] for as_bytes in (False, True)
    )
    names = ("pixel_values", "pixel_values_videos")
    held = [one[name] for one in compact for name in names if name in one]
    assert len(held) > 2
    assert {pixels.dtype for pixels in held} == {torch.uint8}
    for one, whole in zip(compact, floats, strict=True):
        made = processor.normalised(one)
        assert made.keys() == whole.keys()
        assert all(torch.equal(made[name], whole[name]) for name in whole)
    with pytest.raises(TypeError, match=r"pixels are torch.uint8; pass LlaveProcessor.normalised"):
        model(**next(one for one in compact if "pixel_values" in one))


def test_with_the_real_processor_and_model(root: Path, pairs: list[Pair]) -> None:
    model, processor = tiny_model()
    clip = Sample("\nclip\n", (), "video/clip", str(root))
    Image.new("RGB", (30, 90), "white").save(root / "images" / "red.png")
    pairs = [*pairs, Pair(clip, pairs[0].query)]
    with torch.no_grad():
        cut, whole = (
            (batch, torch.cat([model(**part).embeddings for part in batch["micro_batches"]]))
            for batch in (LlaveCollator(processor, size)(pairs) for size in (2, None))
        )
    for name in ("query_index", "document_index", "negative_index"):
        torch.testing.assert_close(cut[1][cut[0][name]], whole[1][whole[0][name]], atol=1e-6, rtol=0)
