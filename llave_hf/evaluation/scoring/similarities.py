"""How far the cosines of right candidates and of hardest negatives lie apart: LLaVE's Figure 1 and Table 1 as numbers.

Positives are all answers; hardest negatives are each query's nearest wrong candidate, hard ones its five nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .histograms import BINS, auc, bin_numbers, overlap
from .nearest import Nearest

DIGITS = 3  # what rounding in a vector cannot move, but for ties of the rounding itself


@dataclass(frozen=True, eq=False)
class Similarities:
    """Of one subset; None where it has no wrong candidate.

    Attributes:
        positives, hardest: `(BINS,)` counts, see `histograms.py`.
        positive, hardest_negative: mean cosines.
        hard: mean over queries of the mean cosine of the five hardest negatives.
        overlap: of the two histograms, 0 (apart, whichever is higher) to 1 (alike).
        auc: probability that an answer's cosine is above a hardest negative's, over all queries.
    """

    positives: torch.Tensor
    hardest: torch.Tensor
    positive: float
    hardest_negative: float | None
    hard: float | None
    overlap: float | None
    auc: float | None

    @classmethod
    def of(cls, nearest: Nearest) -> Similarities:
        """Count what a ranking kept."""
        with_negatives = nearest.cosines[~np.isnan(nearest.cosines[:, 0])].astype(np.float64)
        positives, hardest = _counts(nearest.answers), _counts(with_negatives[:, 0])
        some = len(with_negatives) > 0
        return cls(
            positives=positives,
            hardest=hardest,
            positive=float(nearest.answers.astype(np.float64).mean()),
            hardest_negative=float(with_negatives[:, 0].mean()) if some else None,
            hard=float(np.nanmean(with_negatives, axis=1).mean()) if some else None,
            overlap=overlap(positives, hardest),
            auc=auc(positives, hardest),
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers, rounded."""
        names = ("positive", "hardest_negative", "hard", "overlap", "auc")
        values = {name: getattr(self, name) for name in names}
        return {name: None if value is None else round(value, DIGITS) for name, value in values.items()}


def _counts(cosines: NDArray[np.floating]) -> torch.Tensor:
    return torch.bincount(bin_numbers(torch.from_numpy(np.ascontiguousarray(cosines))), minlength=BINS)
