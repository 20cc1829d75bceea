"""Published training data, in their exact schemas, open and become a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import PUBLISHED
from tables import picture_bytes

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


def test_the_splits_of_mmeb_train(tmp_path: Path) -> None:
    entry = PUBLISHED["TIGER-Lab/MMEB-train"].write(tmp_path)
    for split in ("original", "diverse_instruction", "train", None):
        pair = load_pairs([{**entry, "split": split}])[3]
        assert pair.positive.text == f"Thing 3{split or 'original'}"
