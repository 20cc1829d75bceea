from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_model
from mmeb_rows import COLOURS
from PIL import Image

from llave_hf.data import LlaveCollator, MediaError, Pair, Sample, collator
from llave_hf.data.collator import plan_micro_batches


class RecordingProcessor:
    """Has a LlaveProcessor's signature, and makes one number of each sample; `calls` says what it was given."""

    num_frames, max_frames = None, 3

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, text: list[str], images: list[Any] | None, videos: list[Any] | None, return_tensors: str
    ) -> dict[str, torch.Tensor]:
        self.calls.append({"text": text, "images": images, "videos": videos})
        width = max(map(len, text))
        ids = torch.tensor([[*t.encode("ascii"), *[0] * (width - len(t))] for t in text]).reshape(len(text), width)
        return {"input_ids": ids}


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


def test_docstring_example() -> None:
    assert doctest.testmod(collator) == doctest.TestResults(failed=0, attempted=5)


@pytest.mark.parametrize("size", [None, 1, 2, 3, 100])
def test_indices_lead_back_to_each_sample(pairs: list[Pair], size: int | None) -> None:
    processor = RecordingProcessor()
    batch = LlaveCollator(processor, size)(pairs)
    given = [
        Sample(text, tuple(Path(image.filename).name for image in images or ()))
        for call in processor.calls
        for text, images in zip(call["text"], call["images"] or [None] * len(call["text"]), strict=True)
    ]
    named = [Sample(s.text, tuple(Path(i).name for i in s.images)) for p in pairs for s in (p.query, p.positive)]
    indices = torch.stack([batch["query_index"], batch["document_index"]], dim=1).flatten().tolist()
    assert [given[index] for index in indices] == named
    for pair, row in zip(pairs, batch["negative_index"].tolist(), strict=True):
        assert [given[i].images[0] for i in row if i >= 0] == [Path(s.images[0]).name for s in pair.negatives]
        assert row[len(pair.negatives) :] == [-1] * (2 - len(pair.negatives))
    assert [len(text) for text in _decode(batch)] == [len(sample.text) for sample in given]
    for part in batch["micro_batches"]:
        assert size is None or len(part["input_ids"]) <= size


def test_each_distinct_sample_is_encoded_once(pairs: list[Pair]) -> None:
    processor = RecordingProcessor()
    batch = LlaveCollator(processor)(pairs)
    distinct = {s for p in pairs for s in (p.query, p.positive, *p.negatives)}
    assert len(distinct) == 6 + 4
    assert [len(call["text"]) for call in processor.calls] == [6, 4]  # texts, pictures
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


def test_kinds_do_not_mix_and_sizes_are_sorted(root: Path, pairs: list[Pair]) -> None:
    video = Sample("\nclip\n", (), "video/clip", str(root))
    both = Sample("\nboth\n", ("images/red.png",), "video/clip", str(root))
    processor = RecordingProcessor()
    LlaveCollator(processor, 4)([*pairs, Pair(video, both)])
    kinds = []
    for call in processor.calls:
        kinds += [(call["images"] is not None, call["videos"] is not None)]
        assert call["text"] == sorted(call["text"], key=len)
    assert kinds == [(False, False)] * 2 + [(True, False), (True, True)]
    assert [len(call["text"]) for call in processor.calls] == [3, 3, 4, 2]
    (clip, alone), (frames, given) = list(
        zip(processor.calls[-1]["videos"], processor.calls[-1]["images"], strict=True)
    )
    assert alone is None
    assert [image.size for image in given] == [(12, 10)]
    assert len(clip) == len(frames) == RecordingProcessor.max_frames


def test_parts_are_nearly_equal() -> None:
    assert [len(g) for g in plan_micro_batches([Sample(str(i)) for i in range(33)], 32)] == [16, 17]
    assert plan_micro_batches([], 4) == []


def test_equal_pairs_give_equal_batches(pairs: list[Pair]) -> None:
    one, other = (LlaveCollator(RecordingProcessor(), 2)(list(pairs)) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_without_negatives_there_is_no_entry(pairs: list[Pair]) -> None:
    batch = LlaveCollator(RecordingProcessor())([Pair(p.query, p.positive) for p in pairs])
    assert set(batch) == {"micro_batches", "query_index", "document_index", "query_ids", "document_ids"}


def test_a_broken_file_is_named_with_source_and_row(root: Path, pairs: list[Pair]) -> None:
    content = (root / "images" / "blue.png").read_bytes()
    (root / "images" / "blue.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=r"^task, row 11: .*images/blue.png"):  # first met as a negative of row 11
        LlaveCollator(RecordingProcessor())(pairs)


def test_refuses_a_mini_batch_of_none() -> None:
    with pytest.raises(ValueError, match="mini_batch_size is 0"):
        LlaveCollator(RecordingProcessor(), 0)


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
