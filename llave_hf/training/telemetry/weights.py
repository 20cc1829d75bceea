"""What a negative weighs in the loss, and its share of its query's gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from llave_hf.losses.negatives import margin_limits

from .sample import PairSample

EXTREMES = 5


@dataclass(frozen=True)
class Weighting:
    """What a negative weighs in the loss: its logit is s/τ + min(α h, log max_weight), or s(s + m)/τ.

    Attributes:
        temperature: τ, one number or `(B,)`.
        strength, explicit_strength: α of in-batch and of a row's own explicit negatives; one number or `(B,)`.
        max_weight: Cap of e^(αh), or None.
        margin: The loss masks negatives above their positive by more than this; None: it masks none.
        margin_strategy: What the margins are counted in, `"absolute"` or `"relative"`.
        relative: Whether h is less that of the query's own positive.
        focal_margin: m of Focal-InfoNCE, whose positives have the logit s²/τ; None: s as it is.
        teacher_margin: As `margin`, in a teacher's cosines.
    """

    temperature: float | torch.Tensor
    strength: float | torch.Tensor = 0.0
    explicit_strength: float | torch.Tensor = 0.0
    max_weight: float | None = None
    margin: float | None = None
    margin_strategy: str = "absolute"
    relative: bool = False
    focal_margin: float | None = None
    teacher_margin: float | None = None

    def counted(self, sample: PairSample) -> torch.Tensor:
        """`(n, C)` columns that count as negatives, those that pass a margin left out."""
        counted = sample.usable
        for margin, values, positives in (
            (self.margin, sample.similarities, sample.positives),
            (self.teacher_margin, sample.teacher, sample.teacher_positives),
        ):
            if margin is not None and values is not None and positives is not None:
                counted = counted & (values <= margin_limits(positives, margin, self.margin_strategy)[:, None])
        return counted


@dataclass(frozen=True, eq=False)
class PairWeights:
    """Of n queries and their C columns.

    Attributes:
        usable: `(n, C)`, the negatives that count.
        log_shares: `(n, C)` log of e^(s_ij/τ + αh_ij) / Z_i: the size of dL/ds_ij, times τ, of query → document
            (LLaVE, Eq. 6 and 7; with Focal-InfoNCE times |2s + m| / (2 + m), which is at most 1). Only usable columns
            mean anything.
        log_weights: `(n, C)` αh, capped: log of LLaVE's weight.
        gradient_negatives: `(n,)` (Σw)²/Σw² over negatives with w = e^(s/τ + αh); 0 without negatives.
        hardness_negatives: `(n,)` the same with w = e^(αh), LLaVE's weight alone.
        strength: `(n,)` α of in-batch negatives.
    """

    usable: torch.Tensor
    log_shares: torch.Tensor
    log_weights: torch.Tensor
    gradient_negatives: torch.Tensor
    hardness_negatives: torch.Tensor
    strength: torch.Tensor


def weigh(sample: PairSample, weighting: Weighting) -> PairWeights:
    """See [`PairWeights`]."""
    usable = weighting.counted(sample)
    similarities, size = sample.similarities, len(sample.positives)

    def by_row(value: float | torch.Tensor) -> torch.Tensor:
        values = torch.as_tensor(value, dtype=similarities.dtype, device=similarities.device)
        return values[sample.rows] if values.ndim else values.expand(size)

    scale, strength = 1 / by_row(weighting.temperature), by_row(weighting.strength)
    hardness = similarities if sample.hardness is None else sample.hardness.to(similarities.dtype)
    if weighting.relative:
        references = sample.positives if sample.references is None else sample.references
        hardness = hardness - references.to(similarities.dtype)[:, None]
    log_weights = hardness * strength[:, None]
    if sample.explicit:
        own = slice(-sample.explicit, None)
        log_weights[:, own] = hardness[:, own] * by_row(weighting.explicit_strength)[:, None]
    if weighting.max_weight is not None:
        log_weights.clamp_(max=math.log(weighting.max_weight))
    positives, slopes, curved = sample.positives, None, similarities
    if weighting.focal_margin is not None:
        positives, curved = positives.square(), similarities * (similarities + weighting.focal_margin)
        slopes = (2 * similarities + weighting.focal_margin).abs() / (2 + weighting.focal_margin)
    logits = torch.addcmul(log_weights, curved, scale[:, None])
    hardness_negatives, _ = effective(log_weights, usable)
    gradient_negatives, log_sum = effective(logits, usable)
    log_total = torch.logaddexp(log_sum, positives * scale)
    log_shares = logits.sub_(log_total[:, None])
    log_shares = log_shares if slopes is None else log_shares.add_(slopes.log())
    return PairWeights(usable, log_shares, log_weights, gradient_negatives, hardness_negatives, strength)


def effective(logs: torch.Tensor, usable: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σw)²/Σw² and log Σw of each row, w = e^logs of the usable columns."""
    masked = logs.masked_fill(~usable, -math.inf)
    largest = masked.amax(1).clamp(min=torch.finfo(logs.dtype).min)
    weights = masked.sub_(largest[:, None]).exp_()
    total = weights.sum(1)
    return (total.square() / weights.square_().sum(1)).nan_to_num(0.0), total.log() + largest


def extremes(similarities: torch.Tensor, usable: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowest and the highest five negatives of each row, `(n, 5)` each; infinite past a row's last negative."""
    count = min(EXTREMES, similarities.shape[1])
    low = similarities.masked_fill(~usable, math.inf).topk(count, largest=False, sorted=False).values
    high = similarities.masked_fill(~usable, -math.inf).topk(count, sorted=False).values
    return low, high
