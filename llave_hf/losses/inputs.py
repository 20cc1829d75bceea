"""The inputs of the loss, and checks that they fit together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .hardness import Hardness
from .negatives import NegativeRules

NORM_TOLERANCE = 0.02  # bfloat16 vectors are unit vectors to about 0.4 %


@dataclass(frozen=True, eq=False)
class PairInputs:
    """B pairs of this rank; see `HardnessWeightedContrastiveLoss.forward` for each field."""

    queries: torch.Tensor
    documents: torch.Tensor
    negatives: torch.Tensor | None = None
    query_ids: torch.Tensor | None = None
    document_ids: torch.Tensor | None = None
    negative_ids: torch.Tensor | None = None
    negative_mask: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    document_hardness: torch.Tensor | None = None
    negative_hardness: torch.Tensor | None = None
    teacher_queries: torch.Tensor | None = None
    teacher_documents: torch.Tensor | None = None
    teacher_negatives: torch.Tensor | None = None
    positive_scores: torch.Tensor | None = None
    negative_scores: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """B."""
        return len(self.queries)

    @property
    def present(self) -> torch.Tensor:
        """`(B, K)`, True where a row has that negative."""
        assert self.negatives is not None
        if self.negative_mask is not None:
            return self.negative_mask.bool()
        return torch.ones(self.negatives.shape[:2], dtype=torch.bool, device=self.negatives.device)

    @property
    def positives(self) -> torch.Tensor:
        """s_ii `(B,)`, without gradient."""
        return row_products(self.queries.detach(), self.documents.detach())

    @property
    def teacher_positives(self) -> torch.Tensor:
        """The teacher's s_ii `(B,)`."""
        assert self.teacher_queries is not None and self.teacher_documents is not None
        return row_products(self.teacher_queries.detach(), self.teacher_documents.detach())


def row_products(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Products of row i of one `(B, D)` with row i of the other, `(B,)`, in float64: each positive weighs as much as
    all negatives of its row, whose errors average out."""
    parts = [(x.double() * y.double()).sum(1) for x, y in zip(one.split(512), other.split(512), strict=True)]
    return torch.cat(parts)


def check(inputs: PairInputs, hardness: Hardness, rules: NegativeRules, *, asks_teacher: bool = False) -> None:
    """Raises ValueError where shapes do not fit together, vectors are not normalised, or something is missing.

    Args:
        asks_teacher: Whether anything beside weights and margins needs the teacher's vectors.
    """
    _check_vectors(inputs.queries, inputs.documents, inputs.negatives)
    rows = inputs.queries.shape[:1]
    for name in ("query_ids", "document_ids", "labels", "document_hardness", "positive_scores"):
        _check_shape(name, getattr(inputs, name), rows)
    if inputs.negatives is not None:
        for name in ("negative_ids", "negative_mask", "negative_hardness", "negative_scores"):
            _check_shape(name, getattr(inputs, name), inputs.negatives.shape[:2])
    if hardness.from_vectors or rules.teacher_margin is not None or asks_teacher:
        _check_teacher(inputs, hardness)
    if hardness.source == "column" and hardness.weighs_in_batch and inputs.document_hardness is None:
        raise ValueError("hardness_source is 'column': give document_hardness (B,), a number for each document.")
    weighs_negatives = hardness.weighs_explicit or (rules.share_negatives and hardness.weighs_in_batch)
    missing = inputs.negatives is not None and inputs.negative_hardness is None
    if hardness.source == "column" and weighs_negatives and missing:
        raise ValueError("hardness_source is 'column': give negative_hardness (B, K), a number for each negative.")
    if rules.count_duplicates_once and (inputs.query_ids is None or inputs.document_ids is None):
        raise ValueError("count_duplicates_once needs query_ids and document_ids: they say what is a duplicate.")


def _check_teacher(inputs: PairInputs, hardness: Hardness) -> None:
    name = hardness.source if hardness.from_vectors else "teacher"
    queries, documents, negatives = inputs.teacher_queries, inputs.teacher_documents, inputs.teacher_negatives
    if queries is None or documents is None or (inputs.negatives is not None and negatives is None):
        raise ValueError(
            f"the {name}'s vectors are missing: give teacher_query_embeddings and teacher_document_embeddings (B, E)"
            + (", and teacher_negative_embeddings (B, K, E)." if inputs.negatives is not None else ".")
        )
    _check_vectors(queries, documents, negatives if inputs.negatives is not None else None, prefix="teacher_")
    if len(queries) != inputs.size:
        raise ValueError(f"teacher_query_embeddings have {len(queries)} rows, query_embeddings {inputs.size}.")
    if inputs.negatives is not None and negatives is not None:
        _check_shape("teacher_negative_embeddings", negatives[..., 0], inputs.negatives.shape[:2])


def _check_shape(name: str, tensor: torch.Tensor | None, shape: torch.Size) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; with these embeddings it must be {tuple(shape)}.")


def _check_vectors(
    queries: torch.Tensor, documents: torch.Tensor, negatives: torch.Tensor | None, prefix: str = ""
) -> None:
    if queries.ndim != 2 or queries.shape != documents.shape:
        raise ValueError(
            f"{prefix}query_embeddings are {tuple(queries.shape)} and {prefix}document_embeddings "
            f"{tuple(documents.shape)}; both must be (B, D), a document for each query."
        )
    if negatives is not None and (negatives.ndim != 3 or negatives.shape[::2] != queries.shape):
        raise ValueError(
            f"{prefix}negative_embeddings are {tuple(negatives.shape)}; with queries {tuple(queries.shape)} they must "
            "be (B, K, D)."
        )
    for name, vectors in (("query", queries), ("document", documents), ("negative", negatives)):
        if vectors is not None and vectors.numel():
            norms = torch.linalg.vector_norm(vectors.detach(), dim=-1, dtype=_at_least_float32(vectors.dtype))
            if not bool(((norms - 1).abs() < NORM_TOLERANCE).all()):
                raise ValueError(
                    f"{prefix}{name}_embeddings have norms from {norms.min():.3g} to {norms.max():.3g}; they must be "
                    "L2-normalised and finite."
                )


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
