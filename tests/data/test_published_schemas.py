"""Published training data, in their exact schemas, open and become a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published import PUBLISHED
from tables import hub_rows, picture_bytes, stored

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.data import LlaveCollator, Pair, load_pairs, stream_pairs
from llave_hf.data.stored.pictures import StoredPicture


def rows_of(pairs: Any) -> list[Pair]:
    return [pairs[row] for row in range(len(pairs))]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("load", [load_pairs, stream_pairs])
def test_a_batch_of_published_rows(
    name: str, load: Callable[..., Any], tmp_path: Path, tiny: tuple[LlaveModel, LlaveProcessor]
) -> None:
    pairs = rows_of(load([PUBLISHED[name].write(tmp_path)]))
    assert len(pairs) == 6
    batch = LlaveCollator(tiny[1])(pairs)
    assert len(set(batch["document_ids"].tolist())) == 6
    if "Page" in pairs[0].positive.text or "page" in pairs[0].positive.text:
        assert pairs[2].query.text == f"Find the page that answers: {PUBLISHED[name].rows[2]['query']}"
        assert isinstance(image := pairs[2].positive.images[0], StoredPicture)
        assert image.read() == picture_bytes(2)
        assert pairs[2].positive.text == "\nRepresent the given page.\n"
        assert "negative_index" not in batch
    else:
        assert pairs[2].query.images == ("images/2.jpg",)
        assert (batch["negative_index"] >= 0).all()


def test_lists_of_mme5_are_negatives(tmp_path: Path) -> None:
    pair = load_pairs([PUBLISHED["intfloat/mmE5-synthetic"].write(tmp_path / "synthetic")])[1]
    assert [(one.text, one.images) for one in pair.negatives] == [("\nThing 2", ("images/2.jpg",))]
    pair = load_pairs([PUBLISHED["intfloat/mmE5-MMEB-hardneg"].write(tmp_path / "mined")])[1]
    assert [(one.text, one.images) for one in pair.negatives] == [("It's thing 2", ()), ("It's thing 3", ())]


@pytest.mark.parametrize("load", [load_pairs, stream_pairs])
def test_mined_pictures_without_a_text_take_their_positives(
    load: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As mmE5's own training reads its negatives: else a missing instruction would tell them from positives."""
    mined = PUBLISHED["intfloat/mmE5-MMEB-hardneg"]
    given = {"pos_text": "<|image_1|>\nRepresent the given image.", "pos_image_path": "images/0.jpg"}
    texts = [str(["", "<|image_1|>\nAnother."]), str(["", "a text"]), str(["", ""])]
    images = [str(["images/1.jpg", "images/2.jpg"]), str(["images/1.jpg", ""]), str(["images/3.jpg", ""])]
    rows = [{**mined.rows[0], **given, "neg_text": t, "neg_image_path": i} for t, i in zip(texts, images, strict=True)]
    pairs = rows_of(load([replace(mined, rows=rows).write(tmp_path)]))
    found = sorted(tuple((one.text, one.images) for one in pair.negatives) for pair in pairs)
    same = "\nRepresent the given image.train"
    assert found == sorted(
        [
            ((same, ("images/1.jpg",)), ("\nAnother.", ("images/2.jpg",))),
            ((same, ("images/1.jpg",)), ("a text", ())),
            ((same, ("images/3.jpg",)),),
        ]
    )
    assert caplog.text.count("take the text of their row's positive") == 1


def test_a_picture_that_the_positive_does_not_have_needs_its_own_text(tmp_path: Path) -> None:
    mined = PUBLISHED["intfloat/mmE5-MMEB-hardneg"]
    row = {**mined.rows[0], "neg_text": str([""]), "neg_image_path": str(["images/1.jpg"])}
    with pytest.raises(ValueError, match=r"row 0 .*the negative has 0 mark.* and 1 path"):
        load_pairs([replace(mined, rows=[row]).write(tmp_path)])


def test_a_picture_takes_no_text_of_a_positive_without_one(tmp_path: Path) -> None:
    """A picture in the table itself needs no mark, and would otherwise be one with the positive's text."""
    columns = {"qry": ["Where?"], "qry_image_path": [""], "pos_text": ["a right text"], "pos_image_path": [""]}
    columns |= {"neg_text": [""], "neg_image": [stored(1)]}
    hub_rows(columns, ["neg_image"]).to_parquet(tmp_path / "train.parquet")
    (negative,) = load_pairs(str(tmp_path))[0].negatives
    assert negative.text == "" and len(negative.images) == 1


def test_the_splits_of_mmeb_train(tmp_path: Path) -> None:
    entry = PUBLISHED["TIGER-Lab/MMEB-train"].write(tmp_path)
    for split in ("original", "diverse_instruction", "train", None):
        pair = load_pairs([{**entry, "split": split}])[3]
        assert pair.positive.text == f"Thing 3{split or 'original'}"
