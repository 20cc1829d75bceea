"""Lays out the matrix of pairs: this rank's queries as rows, all ranks' documents as blocks of columns, and masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .blocks import Block, Rows
from .gathering import Columns
from .hardness import Hardness, TileWeights
from .inputs import PairInputs
from .negatives import (
    Equal,
    Margin,
    NegativeRules,
    PairMask,
    equal_content,
    multiplicities,
    shared_codes,
    with_unknown_apart,
)


@torch.no_grad()
def assemble(
    inputs: PairInputs,
    columns: Columns,
    scale: torch.Tensor,
    strength: torch.Tensor,
    hardness: Hardness,
    rules: NegativeRules,
) -> tuple[Rows, tuple[Block, ...]]:
    """Rows and blocks: the documents of all ranks, then, where shared, each k-th negative of all ranks."""
    query_counts, document_counts = content_counts(columns, rules)
    own = slice(columns.offset, columns.offset + inputs.size)
    references = columns.references
    teacher = inputs.teacher_queries if hardness.from_vectors or rules.teacher_margin is not None else None
    rows = Rows(
        vectors=inputs.queries.detach(),
        scale=scale.detach(),
        offset=columns.offset,
        teacher=None if teacher is None else teacher.detach(),
        counts=None if query_counts is None else query_counts[own],
    )
    documents = Block(
        vectors=columns.documents,
        mask=_document_mask(inputs, columns, rules),
        weights=_weights(hardness, strength, columns.document_hardness, references, own),
        teacher=columns.teacher_documents,
        counts=None if document_counts is None else document_counts[:, 0],
    )
    blocks = [documents]
    for k in range(0 if columns.negatives is None else columns.negatives.shape[1]):
        assert columns.negatives is not None
        hard = None if columns.negative_hardness is None else columns.negative_hardness[:, k]
        teachers = columns.teacher_negatives
        blocks.append(
            Block(
                vectors=columns.negatives[:, k],
                mask=_negative_mask(inputs, columns, documents.mask, k),
                # Those of other rows are in-batch negatives to a row, as in sentence-transformers.
                weights=_weights(hardness, strength, hard, references, own, anchors=False),
                teacher=None if teachers is None else teachers[:, k],
                counts=None if document_counts is None else document_counts[:, 1 + k],
                anchors=False,
            )
        )
    return rows, tuple(blocks)


def _weights(
    hardness: Hardness,
    strength: torch.Tensor,
    columns: torch.Tensor | None,
    references: torch.Tensor | None,
    own: slice,
    anchors: bool = True,
) -> TileWeights | None:
    """Log-weights of a block of columns; `references` `(N,)` of all anchors, see [`TileWeights`]."""
    if not hardness.weighs_in_batch:
        return None
    if hardness.source != "column":
        rows = None if references is None else references[own]
        return TileWeights(
            hardness.source,
            strength,
            hardness.log_cap,
            row_references=rows,
            column_references=references if anchors else None,
        )
    assert columns is not None
    return TileWeights(hardness.source, strength, hardness.log_cap, columns.to(strength.dtype))


def _document_mask(inputs: PairInputs, columns: Columns, rules: NegativeRules) -> PairMask:
    own, equal = slice(columns.offset, columns.offset + inputs.size), []
    for name in ("query_ids", "document_ids", "labels"):
        ids = columns.integers.get(name)
        if ids is not None:
            (codes,) = shared_codes(with_unknown_apart(ids) if name == "labels" else ids)
            equal.append(equal_content(codes, own))
    return PairMask(
        equal=tuple(x for x in equal if x is not None),
        score=_margin(columns, columns.positives, rules, rules.false_negative_margin, inputs.size),
        teacher=_margin(columns, columns.teacher_positives, rules, rules.teacher_margin, inputs.size),
    )


def _margin(
    columns: Columns, positives: torch.Tensor | None, rules: NegativeRules, margin: float | None, rows: int
) -> Margin | None:
    if positives is None or margin is None:
        return None
    limits = rules.limits(positives, margin)
    return Margin(row_limits=limits[columns.offset : columns.offset + rows], column_limits=limits)


def _negative_mask(inputs: PairInputs, columns: Columns, documents: PairMask, k: int) -> PairMask:
    """Of all rows' k-th negatives: they are no anchors; one that is a row's own document is no negative of it."""
    ids, document_ids = columns.integers.get("negative_ids"), inputs.document_ids
    equal: tuple[Equal, ...] = ()
    if ids is not None and document_ids is not None:
        equal = (Equal(*shared_codes(document_ids, ids[:, k])),)
    absent = columns.integers["negative_mask"][:, k] == 0
    score, teacher = (
        None if margin is None else Margin(margin.row_limits, None) for margin in (documents.score, documents.teacher)
    )
    return PairMask(equal, absent if bool(absent.any()) else None, score, teacher)


def content_counts(columns: Columns, rules: NegativeRules) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """How much each query `(N,)` and each document and shared negative `(N, 1 + K)` counts as a negative.

    1 over the number of times that its content stands in the batch, or None where each counts in full.
    """
    if not rules.count_duplicates_once:
        return None, None
    ids, counted = columns.integers["document_ids"][:, None], None
    negative_ids = columns.integers.get("negative_ids")
    if negative_ids is not None:
        present = columns.integers["negative_mask"] > 0
        ids, counted = torch.cat((ids, negative_ids), 1), torch.cat((torch.ones_like(present[:, :1]), present), 1)
    totals = multiplicities(ids.reshape(-1), None if counted is None else counted.reshape(-1))
    return 1.0 / multiplicities(columns.integers["query_ids"]), 1.0 / totals.view(ids.shape)


def anchor_shares(
    integers: Mapping[str, torch.Tensor], offset: int, rules: NegativeRules, rows: int
) -> torch.Tensor | None:
    """Each row's share `(B,)` of the mean over *local* rows, or None where it is 1/B for all.

    Pairs that stand several times share one place. The mean over ranks of the local sums is the mean of all places.
    `integers` and `offset` as in [`Columns`].
    """
    if not rules.count_duplicates_once:
        return None
    queries, documents = shared_codes(integers["query_ids"]), shared_codes(integers["document_ids"])
    places = 1.0 / multiplicities(queries[0].long() * len(queries[0]) + documents[0])
    world = len(places) / rows
    return places[offset : offset + rows] * (world / places.sum())


@torch.no_grad()
def reference_weights(inputs: PairInputs, strength: torch.Tensor, hardness: Hardness) -> torch.Tensor | None:
    """αh of each row's own positive `(B,)`, in float64, where weights are relative to it; else None."""
    if not hardness.relative:
        return None
    return strength * (inputs.positives if hardness.source == "self" else inputs.teacher_positives)
