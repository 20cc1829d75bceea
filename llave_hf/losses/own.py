"""Explicit negatives, which count against their own query alone: logits (B, K)."""

from __future__ import annotations

import torch

from .assembly import content_counts
from .gathering import Columns
from .hardness import Hardness, log_weights
from .inputs import PairInputs
from .negatives import NegativeRules, first_seen, usable_negatives


def own_similarities(inputs: PairInputs) -> torch.Tensor:
    """s `(B, K)` of each query and its own negatives, differentiable."""
    assert inputs.negatives is not None
    return torch.einsum("bd,bkd->bk", inputs.queries, inputs.negatives)


def own_logits(
    inputs: PairInputs,
    similarities: torch.Tensor,
    columns: Columns,
    scale: torch.Tensor,
    strength: torch.Tensor,
    hardness: Hardness,
    rules: NegativeRules,
    references: torch.Tensor | None = None,
    focal_margin: float | None = None,
) -> torch.Tensor:
    """s/τ + log w `(B, K)` of each row's explicit negatives, -inf where one does not count; differentiable.

    Args:
        similarities: See [`own_similarities`].
        references: αh of each row's positive `(B,)` where weights are relative to it, else None.
        focal_margin: m of s(s + m) instead of s, or None.
    """
    curved = similarities if focal_margin is None else similarities * (similarities + focal_margin)
    logits = curved * scale[:, None]
    with torch.no_grad():
        teacher = None
        if inputs.teacher_negatives is not None and inputs.teacher_queries is not None:
            teacher = torch.einsum("be,bke->bk", inputs.teacher_queries, inputs.teacher_negatives).to(logits.dtype)
        extra = torch.zeros_like(logits)
        if hardness.weighs_explicit:
            by_source = {"self": similarities.detach(), "column": inputs.negative_hardness}
            values = by_source.get(hardness.source, teacher)
            assert values is not None
            extra += relative_log_weights(strength[:, None], values.to(logits.dtype), hardness, references)
        if references is not None and hardness.weighs_in_batch:
            extra += references[:, None]  # the positive's logit has it too, and so the other negatives' lack it
        usable = _usable(inputs, columns, similarities, teacher, rules)
        counts = content_counts(columns, rules)[1]
        if counts is not None and counts.shape[1] > 1:  # shared negatives: one of them is this row's own
            extra += counts[columns.offset : columns.offset + inputs.size, 1:].log().to(extra.dtype)
        elif rules.count_duplicates_once and inputs.negative_ids is not None:
            usable = first_seen(inputs.negative_ids, columns.integers["document_ids"], usable)
    return (logits + extra).masked_fill(~usable, -torch.inf)


def relative_log_weights(
    strength: torch.Tensor, values: torch.Tensor, hardness: Hardness, references: torch.Tensor | None
) -> torch.Tensor:
    """min(αh - reference, log cap) of values `(B, K)` and references `(B,)`, in the values' type."""
    if references is None:
        return log_weights(strength, values, hardness.log_cap)
    above = (strength * values - references[:, None]).to(values.dtype)
    return above if hardness.log_cap is None else above.clamp_(max=hardness.log_cap)


def _usable(
    inputs: PairInputs,
    columns: Columns,
    similarities: torch.Tensor,
    teacher: torch.Tensor | None,
    rules: NegativeRules,
) -> torch.Tensor:
    """`(B, K)` negatives that are there, are not the row's document, and pass no margin."""
    usable = usable_negatives(inputs.negative_ids, inputs.document_ids, inputs.present)
    own = slice(columns.offset, columns.offset + inputs.size)
    for margin, values, positives in (
        (rules.false_negative_margin, similarities, columns.positives),
        (rules.teacher_margin, teacher, columns.teacher_positives),
    ):
        if margin is not None and positives is not None and values is not None:
            usable = usable & (values <= rules.limits(positives[own, None], margin))
    return usable
