"""Vectors of samples: what is not finite is named, and zeros stay."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llave_hf.data.samples import Sample
from llave_hf.data.vectors.embedding_cache import EmbeddingCache

SAMPLES = [Sample("one"), Sample("zero"), Sample("what is it?", ("a.png",))]


class Written:
    """An encoder whose vectors are written down."""

    def __init__(self, *vectors: Sequence[float]) -> None:
        self.vectors = np.array(vectors, dtype=np.float32)

    def encode(self, inputs: Sequence[Any], **_: Any) -> np.ndarray:
        return self.vectors[: len(inputs)]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kept", [True, False])
def test_a_vector_that_is_not_finite_names_its_sample_and_is_not_kept(
    tmp_path: Path, number: float, kept: bool
) -> None:
    folder = tmp_path / "vectors" if kept else None
    texts = [Sample("one"), Sample("zero"), Sample("two " * 100)]
    broken = EmbeddingCache(Written([1, 0], [0, 1], [0, number]), folder, "a", show_progress=False)
    with pytest.raises(ValueError, match=r"^'two two .* …': the model gives it a vector whose numbers are not finite"):
        broken.encode(texts, "what")
    mended = EmbeddingCache(Written([1, 0], [0, 1], [3, 4]), folder, "a", show_progress=False)
    np.testing.assert_allclose(mended.encode(texts, "what")[2], [0.6, 0.8])


def test_zeros_stay(tmp_path: Path) -> None:
    """As some models have for unknown words; a cosine with them is 0."""
    cache = EmbeddingCache(Written([3, 4], [0, 0]), None, "a", show_progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(cache.encode(SAMPLES[:2], "what"), [[0.6, 0.8], [0, 0]])


def test_samples_are_named_shortly() -> None:
    assert str(SAMPLES[0]) == "'one'" and str(SAMPLES[2]) == "a.png with 'what is it?'"
    assert str(Sample("", ("a.png", "b.png"), "clip.mp4")) == "a.png, b.png, clip.mp4" and str(Sample()) == "''"
