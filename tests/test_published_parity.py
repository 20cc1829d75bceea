"""The model gives the published research code's token ids, pixels and embeddings (tests/fixtures/model)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from published import ROOT, SETS, cases, published
from safetensors.torch import load_file

from llave_hf import LlaveModel, LlaveProcessor

PLACEHOLDER = -200
TOLERANCE = 5e-6  # the reference's own; a tanh GELU in the projector would already give 1.6e-5


def _all_cases() -> list[Any]:
    return [pytest.param(name, case, id=f"{name}-{case['id']}") for name in SETS for case in cases(name)]


def _setup(name: str, case: dict[str, Any]) -> tuple[LlaveModel, LlaveProcessor, list[dict[str, Any]]]:
    model, processor = published(name, case.get("video_newline", "one_token"))
    samples = []
    for row in case["rows"]:
        files = [str(ROOT / name / "inputs" / file) for file in row["files"]]
        kind = "videos" if case["kind"] == "video" else "images"
        samples.append({"text": [row["text"] or ""], **({kind: [files]} if files else {})})
    return model, processor, samples


def _runs(ids: list[int], visual: list[int]) -> list[int]:
    """The ids with each run of one visual token as the reference writes it."""
    out: list[int] = []
    for token in ids:
        if token not in visual:
            out.append(token)
        elif not out or out[-1] != PLACEHOLDER:
            out.append(PLACEHOLDER)
    return out


def _spliced(processor: LlaveProcessor, ids: list[int], made: dict[str, Any]) -> dict[str, Any]:
    """`made` with the prompt `ids` around its pictures, where the processor cannot write it (pictures not first)."""
    visual = [processor.image_token_id, processor.video_token_id]
    runs = _split_runs(made["input_ids"][0].tolist(), visual)
    row: list[int] = []
    for token in ids:
        row += runs.pop(0) if token == PLACEHOLDER else [token]
    return {**made, "input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}


def _split_runs(ids: list[int], visual: list[int]) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for token in ids:
        if token in visual:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


@pytest.mark.parametrize(("name", "case"), _all_cases())
def test_single_inputs_equal_the_published_code(name: str, case: dict[str, Any]) -> None:
    model, processor, samples = _setup(name, case)
    expected = load_file(ROOT / name / "expected.safetensors")
    for index, (row, sample) in enumerate(zip(case["rows"], samples, strict=True)):
        made = processor(**sample)
        if row["text"] is None:
            made = _spliced(processor, row["input_ids"], made)
        visual = [processor.image_token_id, processor.video_token_id]
        assert _runs(made["input_ids"][0].tolist(), visual) == row["input_ids"]
        assert made["input_ids"].shape == (1, row["length"])
        with torch.no_grad():
            embedding = model(**made).embeddings[0]
        torch.testing.assert_close(embedding, expected[f"{case['id']}/{index}"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "case"), _all_cases())
def test_pixels_equal_the_published_code_to_the_bit(name: str, case: dict[str, Any]) -> None:
    _, processor, samples = _setup(name, case)
    for row, sample in zip(case["rows"], samples, strict=True):
        if not row["pixels_sha256"]:
            continue
        made = processor(**sample)
        pixels = made["pixel_values"] if "pixel_values" in made else made["pixel_values_videos"]
        counts = made["image_num_tiles"].tolist() if "pixel_values" in made else [len(pixels)]
        levels = ((pixels * 0.5 + 0.5) * 255).round().to(torch.uint8)
        assert torch.equal(((levels.double() * (1 / 255)).float() - 0.5) / 0.5, pixels)
        hashes = [hashlib.sha256(tiles.numpy().tobytes()).hexdigest() for tiles in levels.split(counts)]
        assert hashes == row["pixels_sha256"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_equals_the_published_single_inputs(side: str) -> None:
    case = next(case for case in cases("tiny_2x2") if case["id"] == "batch_mixed")
    model, processor, samples = _setup("tiny_2x2", case)
    expected = load_file(ROOT / "tiny_2x2" / "expected.safetensors")
    made = processor(
        text=[sample["text"][0] for sample in samples],
        images=[sample.get("images", [None])[0] for sample in samples],
        padding_side=side,
    )
    with torch.no_grad():
        embeddings = model(**made).embeddings
    rows = torch.stack([expected[f"batch_mixed/{index}"] for index in range(len(samples))])
    torch.testing.assert_close(embeddings, rows, atol=TOLERANCE, rtol=0)
