"""Vectors whose first dimensions are embeddings of their own (arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.nn import functional as F

from .inputs import PairInputs


def truncations(dims: Sequence[int], weights: Sequence[float] | None) -> tuple[tuple[int, float], ...]:
    """(dimensions, weight) of each, most dimensions first."""
    factors = [1.0] * len(dims) if weights is None else list(weights)
    if len(factors) != len(dims):
        raise ValueError(f"there are {len(dims)} matryoshka_dims and {len(factors)} matryoshka_weights.")
    if any(size < 1 for size in dims) or len(set(dims)) < len(dims):
        raise ValueError(f"matryoshka_dims is {list(dims)}; give different positive numbers.")
    return tuple(sorted(zip(dims, factors, strict=True), reverse=True))


def truncated(inputs: PairInputs, dims: int) -> PairInputs:
    """The first `dims` dimensions, normalised again."""
    size = inputs.queries.shape[1]
    if dims > size:
        raise ValueError(f"matryoshka_dims has {dims}; vectors have {size} dimensions.")
    if dims == size:
        return inputs
    return replace(
        inputs,
        queries=F.normalize(inputs.queries[..., :dims], dim=-1),
        documents=F.normalize(inputs.documents[..., :dims], dim=-1),
        negatives=None if inputs.negatives is None else F.normalize(inputs.negatives[..., :dims], dim=-1),
    )
