"""Which pairs count as negatives. A masked pair is out of the sum altogether, whatever its weight would be."""

from __future__ import annotations

import torch


def same_content(
    query_ids: torch.Tensor | None,
    document_ids: torch.Tensor | None,
    all_query_ids: torch.Tensor | None,
    all_document_ids: torch.Tensor | None,
) -> torch.Tensor | None:
    """Pairs that are no negatives: the document is the query's own in other words, or the query is the same.

    Args:
        query_ids, document_ids: `(R,)` content hashes of some rows, or None where they are not known.
        all_query_ids, all_document_ids: `(C,)` of some columns.

    Returns:
        `(R, C)`, True where the pair does not count; None where nothing is known.
    """
    mask = None
    for own, others in ((query_ids, all_query_ids), (document_ids, all_document_ids)):
        if own is not None and others is not None:
            equal = own[:, None] == others[None, :]
            mask = equal if mask is None else mask | equal
    return mask


def usable_negatives(
    negative_ids: torch.Tensor | None, document_ids: torch.Tensor | None, present: torch.Tensor
) -> torch.Tensor:
    """Explicit negatives that count: those that are there and are not the row's own positive. All `(B, K)`."""
    if negative_ids is None or document_ids is None:
        return present
    return present & (negative_ids != document_ids[:, None])
