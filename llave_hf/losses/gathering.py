"""Gathers what a rank has to know of the others' rows: documents, and what masks and weights need."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llave_hf import distributed

from .inputs import PairInputs
from .negatives import NegativeRules


@dataclass(frozen=True)
class Columns:
    """What is known of all ranks' rows, N = B·W. Fields as in [`PairInputs`].

    Args:
        offset: This rank's first row.
        positives, teacher_positives: `(N,)` s_ii, where margins need them.
        references: `(N,)` αh_ii, where a cap needs them, see [`TileWeights`].
    """

    offset: int
    documents: torch.Tensor
    integers: dict[str, torch.Tensor]
    document_hardness: torch.Tensor | None
    teacher_documents: torch.Tensor | None
    negatives: torch.Tensor | None
    teacher_negatives: torch.Tensor | None
    negative_hardness: torch.Tensor | None
    positives: torch.Tensor | None
    teacher_positives: torch.Tensor | None
    references: torch.Tensor | None = None


@torch.no_grad()
def gather_columns(
    inputs: PairInputs, gather: bool, rules: NegativeRules, references: torch.Tensor | None = None
) -> Columns:
    """Gathers what columns need, over ranks where `gather`; explicit negatives only where they are shared.

    Args:
        references: `(B,)` of this rank's rows, or None.
    """

    def over_ranks(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return distributed.all_gather(tensor) if gather and tensor is not None else tensor

    integers = {"query_ids": inputs.query_ids, "document_ids": inputs.document_ids, "labels": inputs.labels}
    shared = inputs if rules.share_negatives and inputs.negatives is not None else None
    if shared is not None:
        integers["negative_mask"], integers["negative_ids"] = shared.present, shared.negative_ids
    documents = over_ranks(inputs.documents.detach())
    assert documents is not None
    return Columns(
        offset=distributed.rank() * inputs.size if gather else 0,
        documents=documents,
        integers=_gather_integers(inputs.size, integers, over_ranks=gather),
        document_hardness=over_ranks(inputs.document_hardness),
        teacher_documents=over_ranks(inputs.teacher_documents),
        negatives=None if shared is None else over_ranks(shared.negatives),
        teacher_negatives=None if shared is None else over_ranks(shared.teacher_negatives),
        negative_hardness=None if shared is None else over_ranks(shared.negative_hardness),
        positives=None if rules.false_negative_margin is None else over_ranks(inputs.positives),
        teacher_positives=None if rules.teacher_margin is None else over_ranks(inputs.teacher_positives),
        references=over_ranks(references),
    )


@torch.no_grad()
def gather_ids(inputs: PairInputs, gather: bool) -> tuple[dict[str, torch.Tensor], int]:
    """`query_ids` and `document_ids` of all rows `(N,)`, and this rank's first row: what else [`gather_columns`] does
    is not needed."""
    integers = {"query_ids": inputs.query_ids, "document_ids": inputs.document_ids}
    offset = distributed.rank() * inputs.size if gather else 0
    return _gather_integers(inputs.size, integers, over_ranks=gather), offset


def _gather_integers(size: int, integers: dict[str, torch.Tensor | None], over_ranks: bool) -> dict[str, torch.Tensor]:
    """Columns of integers `(B,)` or `(B, K)` -> `(N,)` or `(N, K)`, in one message."""
    given = {name: values.detach().long() for name, values in integers.items() if values is not None}
    if not given or not over_ranks:
        return given
    widths = [values[0].numel() if size else 1 for values in given.values()]
    packed = distributed.all_gather(torch.cat([values.reshape(size, -1) for values in given.values()], dim=1))
    parts = packed.split(widths, dim=1)
    return {name: part.reshape(-1, *given[name].shape[1:]) for name, part in zip(given, parts, strict=True)}
