"""Texts of unlike lengths in one row: the vectors of each alone, for every backbone whose decoder takes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import KINDS, SHARING, save_backbone
from helpers import pictures, tiny_model

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.encoding.lean_decoding import PACKING, LeanDecoding
from llave_hf.encoding.packing import MOST_PACKED, Packing, is_worth_packing
from llave_hf.encoding.rows import Row, split_rows
from llave_hf.encoding.shared_prefix import common_prefix

TEXTS = ["a", "what is this? " * 6, "a dog", "ü" * 40, "a dog", "", "one two three " * 3]


def rows_of(processor: LlaveProcessor, texts: Sequence[str]) -> list[Row]:
    return [row for text in texts for row in split_rows(processor(text=[text]), [0])]


def serving(model: LlaveModel, prefix: torch.Tensor) -> LeanDecoding:
    lean = LeanDecoding(model, lambda batch: model(**batch).embeddings, pad_token_id=0)
    lean.share(prefix)
    return lean


def alone(model: LlaveModel, processor: LlaveProcessor) -> torch.Tensor:
    return torch.cat([model(**processor(text=[text])).embeddings for text in TEXTS])


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each row that is packed."""
    found: list[int] = []
    real = Packing.arguments

    def noting(self: Packing, *args: Any) -> dict[str, Any]:
        made = real(self, *args)
        found.append(made["inputs_embeds"].shape[1])
        return made

    monkeypatch.setattr(Packing, "arguments", noting)
    return found


@pytest.mark.parametrize("kind", ["tiny", *KINDS])
@torch.inference_mode()
def test_vectors_are_those_of_each_text_alone(kind: str, tmp_path: Path, packed: list[int]) -> None:
    model, processor = tiny_model()
    if kind != "tiny":
        save_backbone(tmp_path, kind)
        model, processor = LlaveModel.from_pretrained(tmp_path).eval(), LlaveProcessor.from_pretrained(tmp_path)
    rows, expected = rows_of(processor, TEXTS), alone(model, processor)
    prefix = common_prefix(row.tokens["input_ids"] for row in rows)
    assert len(prefix) > 2
    for given in (prefix, prefix[:0]):
        packed.clear()
        with serving(model, given) as lean:
            can = lean.can_pack(rows)
            found = lean.run(rows)
        assert can == (kind in ("tiny", *SHARING))
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)
        assert (packed[-1:] == [sum(map(len, rows)) - len(given) * len(rows)]) == can
    with serving(model, prefix) as lean:
        packed.clear()
        assert torch.allclose(lean.run(rows[:1]), expected[:1], rtol=0, atol=1e-6)
        assert torch.allclose(lean.run([rows[2], rows[4]]), expected[[2, 4]], rtol=0, atol=1e-6)
        assert not packed  # nothing to save


@torch.inference_mode()
def test_pictures_and_lists_are_padded(packed: list[int]) -> None:
    model, processor = tiny_model()
    shown = [row for image in pictures([(40, 30)]) for row in split_rows(processor(images=[image]), [0])]
    rows = rows_of(processor, TEXTS)
    with serving(model, torch.empty(0, dtype=torch.long)) as lean:
        lean.run([*rows, *shown])
    with LeanDecoding(model, lambda batch: model(**batch).embeddings, pad_token_id=0) as lean:
        lean.expect([row.tokens["input_ids"] for row in rows], num_tokens=1000)
        lean.run(rows)
    assert not packed


@torch.inference_mode()
def test_texts_that_see_each_other_are_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Packing.arguments

    def seeing_all(self: Packing, *args: Any) -> dict[str, Any]:
        made = real(self, *args)
        return made | {"attention_mask": torch.ones_like(made["attention_mask"]).tril()}

    monkeypatch.setattr(Packing, "arguments", seeing_all)
    model, processor = tiny_model(seed=5)
    rows = rows_of(processor, TEXTS)
    with serving(model, torch.empty(0, dtype=torch.long)) as lean, caplog.at_level(logging.WARNING):
        found = lean.run(rows)
        assert not lean.can_pack(rows)
    assert torch.allclose(found, alone(model, processor), rtol=0, atol=1e-6)
    assert [record.getMessage().startswith(PACKING) for record in caplog.records] == [True]


def test_what_is_worth_packing() -> None:
    assert not is_worth_packing([30]) and not is_worth_packing([30, 31, 29])
    assert is_worth_packing([5, 30]) and not is_worth_packing([5, MOST_PACKED])


def test_a_batch_comes_back_in_its_own_shape() -> None:
    kept = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    packing = Packing(kept)
    hidden = torch.arange(1.0, 7.0).view(1, 6, 1)
    assert packing.unpacked(hidden)[..., 0].tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert packing.shape == (1, 6) and hidden[packing.last][:, 0].tolist() == [2, 5, 6]
    made = packing.arguments({"inputs_embeds": torch.zeros(3, 3, 2)}, [], "cache")
    assert made["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0]] and "cache" not in made
    sees = np.zeros((6, 6), dtype=bool)
    for first, end in ((0, 2), (2, 5), (5, 6)):
        sees[first:end, first:end] = np.tri(end - first, dtype=bool)
    assert np.array_equal(made["attention_mask"][0, 0].numpy(), sees)
