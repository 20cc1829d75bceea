"""Inputs of which a model makes numbers that are not finite: named where bad inputs are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import picture, spoil, tiny_model

from llave_hf import LlaveSentenceTransformer
from llave_hf.encoding.encoder import LlaveEncoder

INPUTS = ["a dog", "a zoo", {"image": picture(), "text": "a cat"}, "a zoo", {"image": picture(), "text": "a zebra"}]
SPOILT = [1, 3, 4]


@pytest.fixture(scope="module", params=["LlaveSentenceTransformer", "LlaveEncoder"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    model, processor = tiny_model()
    spoil(model, processor, "z")
    if request.param == "LlaveEncoder":
        return LlaveEncoder(model, processor)
    folder: Path = tmp_path_factory.mktemp("spoilt")
    for part in (model, processor):
        part.save_pretrained(folder)
    return LlaveSentenceTransformer(str(folder), device="cpu")


def test_they_count_as_inputs_that_cannot_be_used(encoder: LlaveEncoder) -> None:
    reasons: dict[int, str] = {}
    found = encoder.encode(INPUTS, on_error="none", reasons=reasons)
    assert [place for place, vector in enumerate(found) if vector is None] == list(reasons) == SPOILT
    for place, reason in reasons.items():
        assert reason.startswith(f"input {place}: the model gives it a vector whose numbers are not finite")
    good = encoder.encode([INPUTS[0], INPUTS[2]])
    assert np.abs(np.stack([found[0], found[2]]) - good).max() < 1e-6


def test_where_errors_are_raised_the_vectors_are_as_the_model_gives_them(encoder: LlaveEncoder) -> None:
    """As from sentence-transformers' own encode."""
    finite = np.isfinite(encoder.encode(INPUTS)).all(axis=1)
    assert np.flatnonzero(~finite).tolist() == SPOILT


def test_whole_numbers_hide_none(encoder: LlaveEncoder) -> None:
    if isinstance(encoder, LlaveSentenceTransformer):
        found = encoder.encode(INPUTS, on_error="none", reasons={}, precision="binary", truncate_dim=16)
        assert [place for place, vector in enumerate(found) if vector is None] == SPOILT


def test_inputs_beside_them_have_theirs(encoder: LlaveEncoder) -> None:
    """Also in a batch whose common beginning is run once for all."""
    texts = [f"{word} number {number}" for number in range(100) for word in ("red", "blue", "the snow, the")]
    wanted = encoder.encode(texts, batch_size=300)
    texts[123] = "zzz"
    found = encoder.encode(texts, batch_size=300)
    finite = np.isfinite(found).all(axis=1)
    assert np.flatnonzero(~finite).tolist() == [123]
    assert np.abs(found[finite] - wanted[finite]).max() < 1e-5
    reasons: dict[int, str] = {}
    encoder.encode(texts, batch_size=300, on_error="none", reasons=reasons)
    assert list(reasons) == [123]
