"""A published checkpoint, opened as a user opens it, gives the published research code's values, stage by stage."""

from __future__ import annotations

from typing import Any

import PIL
import pytest
import torch
from checkpoints import ROOT, SETS, published
from transformers import AutoModel, AutoProcessor

from llave_hf.checkpoints.llava_qwen.parity import RowParity, compare, parity_table
from llave_hf.checkpoints.llava_qwen.reference import ReferenceRow, read_reference

TOLERANCE = 5e-6  # the reference's own; a tanh GELU in the projector would already give 1.6e-5
ROWS = [(name, row) for name in SETS for row in read_reference(ROOT / name)[0]]


@pytest.mark.parametrize(("name", "row"), [pytest.param(name, row, id=f"{name}-{row.name}") for name, row in ROWS])
def test_every_stage_equals_the_published_code(name: str, row: ReferenceRow) -> None:
    (result,) = compare(*published(name), [row])
    assert result.tokens
    assert result.pixels is not False
    assert result.visual is None or result.visual <= 1e-4
    assert result.vector <= TOLERANCE


def test_the_reference_covers_every_stage() -> None:
    assert len(ROWS) == 61
    assert sum(bool(row.pixels_sha256) for _, row in ROWS) == 47
    assert sum(bool(row.visual) for _, row in ROWS) == 15
    assert {row.kind for _, row in ROWS} == {"text", "image", "batch", "multi_image", "video"}
    skipped = {case for name in SETS for case in read_reference(ROOT / name)[1]}
    assert skipped == {
        "nonrgb_RGBA",
        "nonrgb_P",
        "train_step",
        "truncated_image_64",
        "truncated_image_170",
        "truncated_text_40",
    }


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mixed_batch_equals_the_published_single_inputs(side: str) -> None:
    model, processor = published("tiny_2x2")
    rows = [row for name, row in ROWS if name == "tiny_2x2" and row.name.startswith("batch_mixed")]
    assert len(rows) == 4
    made = processor(
        text=[row.message.removeprefix("<image>") for row in rows],
        images=[[str(path) for path in row.files] for row in rows],
        padding_side=side,
    )
    with torch.no_grad():
        embeddings = model(**made).embeddings
    expected = torch.stack([row.embedding for row in rows])
    torch.testing.assert_close(embeddings, expected, atol=TOLERANCE, rtol=0)


# ------------------------------------------------------------------------------------ what the comparison would catch


def _one(kind: str) -> ReferenceRow:
    return next(row for name, row in ROWS if name == "tiny_2x2" and row.kind == kind and row.visual)


def _with_setting(name: str, value: Any, row: ReferenceRow) -> RowParity:
    model, _ = published("tiny_2x2")
    processor = type(published("tiny_2x2")[1]).from_pretrained(ROOT / "tiny_2x2", **{name: value})
    return compare(model, processor, [row])[0]


def test_another_resize_is_caught() -> None:
    result = _with_setting("backend", "torchvision", _one("image"))
    assert result.tokens
    assert result.pixels is False
    assert not result.passes(TOLERANCE)


def test_another_length_is_caught() -> None:
    row = _one("image")
    longer = ReferenceRow(**{**vars(row), "length": row.length + 1})
    assert not compare(*published("tiny_2x2"), [longer])[0].passes(TOLERANCE)


def test_another_feature_is_caught() -> None:
    row = _one("multi_image")
    moved = ReferenceRow(**{**vars(row), "visual": [feature + 2e-4 for feature in row.visual]})
    result = compare(*published("tiny_2x2"), [moved])[0]
    assert result.vector <= TOLERANCE
    assert not result.passes(TOLERANCE)


def test_the_table_names_what_differs() -> None:
    good = RowParity("a", "text", True, None, None, 1e-7)
    bad = RowParity("b", "image", True, False, 1e-6, 3e-5)
    table = parity_table([good, bad])
    assert "| text | 1 | 1 of 1 equal | - | - | 1.0e-07 |" in table
    assert "| all | 2 | 2 of 2 equal | 0 of 1 equal | 1.0e-06 | 3.0e-05 |" in table
    assert "- b: token ids equal, pixels DIFFER, vector 3.0e-05" in table
    assert "- a:" not in table


# --------------------------------------------------------------------------------------- tiles of the released size

RELEASED = ROOT / "siglip_384"
needs_pillow_13 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="the values were computed with Pillow 13's order of passes"
)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        pytest.param({"resize_order": "installed"}, 1e-6, marks=needs_pillow_13, id="pil"),
        pytest.param({"backend": "pil"}, 1e-4, id="pil, the older order"),
        pytest.param({"backend": "torchvision"}, 5e-4, id="torchvision"),
    ],
)
def test_tiles_of_384_pixels(settings: dict[str, str], tolerance: float) -> None:
    model, processor = AutoModel.from_pretrained(RELEASED), AutoProcessor.from_pretrained(RELEASED, **settings)
    rows, skipped = read_reference(RELEASED)
    assert len(rows) == 17
    assert not skipped
    results = compare(model, processor, rows)
    assert all(result.tokens for result in results)
    assert max(result.vector for result in results) <= tolerance


def test_one_tile_for_each_of_several_images_is_a_choice() -> None:
    """transformers pads each of several images to one tile; the published code, and ours by default, tiles each."""
    model, processor = AutoModel.from_pretrained(RELEASED), AutoProcessor.from_pretrained(RELEASED)
    single = AutoProcessor.from_pretrained(RELEASED, image_tiling="anyres_single")
    row = next(row for row in read_reference(RELEASED)[0] if row.kind == "multi_image")
    files = [[str(path) for path in row.files]]
    assert processor(images=files)["image_num_tiles"].tolist() == [2, 3]
    assert single(images=files)["image_num_tiles"].tolist() == [1, 1]
    assert not compare(model, single, [row])[0].tokens
