"""Graded labels: how well each of a row's own candidates answers, as a soft target (UniME-V2, arXiv 2510.13515).

Candidates of row i are its positive, c = 0, and its own explicit negatives, c = 1 ... K. With a judge's scores σ

    P = softmax(s_ic / τ),   Q = softmax(σ_ic / τ_teacher),
    L_i = [KL(P‖Q) + KL(Q‖P)] / 2 = Σ_c (P - Q)(log P - log Q) / 2          (Eq. 2 to 4)

which is 0 where all gaps agree, (s_i0 - s_ic) / τ = (σ_i0 - σ_ic) / τ_teacher. No other row is seen, on any rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .inputs import PairInputs
from .negatives import first_in_row, usable_negatives

DISTILL_SOURCES = ("column", "teacher")


def check_weights(contrastive: float, distill: float) -> None:
    """Raises ValueError where a loss would count negatively in the sum of both, or neither counts."""
    if not contrastive >= 0 or not contrastive + distill > 0:
        raise ValueError(
            f"contrastive_weight is {contrastive:g} and distill_weight {distill:g}; neither may be negative, and one "
            "must be above 0."
        )


@dataclass(frozen=True)
class GradedLabels:
    """Whose word on the candidates, and how much it counts.

    Args:
        weight: Of this loss in the sum; 0: there is none.
        source: σ: `"column"` (numbers that the data give) or `"teacher"` (cosines of a teacher's vectors).
        temperature: τ_teacher; None: each row's own τ.
        once: Whether a negative that stands twice in its row counts once.
    """

    weight: float = 0.0
    source: str = "column"
    temperature: float | None = None
    once: bool = False

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"distill_weight is {self.weight}; it must not be negative (0: no graded labels).")
        if self.source not in DISTILL_SOURCES:
            raise ValueError(
                f"distill_source is {self.source!r}; choose one of {', '.join(map(repr, DISTILL_SOURCES))}."
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(
                f"teacher_temperature is {self.temperature}; it must be positive, or None for temperature."
            )

    @property
    def asks_teacher(self) -> bool:
        """Whether forward needs a teacher's vectors."""
        return self.weight > 0 and self.source == "teacher"

    def check(self, inputs: PairInputs) -> None:
        """Raises ValueError where scores are missing."""
        missing = inputs.positive_scores is None or inputs.negative_scores is None
        if self.weight > 0 and self.source == "column" and inputs.negatives is not None and missing:
            raise ValueError(
                "distill_weight is above 0 and distill_source 'column': give positive_scores (B,) and negative_scores "
                "(B, K), how well each candidate answers."
            )

    def losses(self, inputs: PairInputs, scale: torch.Tensor, similarities: torch.Tensor | None) -> torch.Tensor:
        """L `(B,)` in float64; 0 of a row that has no negative that counts.

        Args:
            scale: 1/τ `(B,)`.
            similarities: Of each query and its own negatives `(B, K)`; None where there are none.
        """
        own = torch.linalg.vecdot(inputs.queries, inputs.documents)
        if similarities is None:  # all ranks go backward, by the temperature too
            return (0 * own * scale).double()
        counted = self._counted(inputs)
        student = _log_softmax(torch.cat((own[:, None], similarities), 1).double() * scale[:, None], counted)
        with torch.no_grad():
            sharpness = scale.detach()[:, None].double() if self.temperature is None else 1 / self.temperature
            teacher = _log_softmax(self._scores(inputs).double() * sharpness, counted)
        apart = (student - teacher).masked_fill(~counted, 0)  # of what does not count: -inf - -inf
        return ((student.exp() - teacher.exp()) * apart).sum(1) / 2

    def _scores(self, inputs: PairInputs) -> torch.Tensor:
        """σ `(B, 1 + K)`."""
        if self.source == "column":
            assert inputs.positive_scores is not None and inputs.negative_scores is not None
            return torch.cat((inputs.positive_scores[:, None], inputs.negative_scores), 1)
        assert inputs.teacher_queries is not None and inputs.teacher_negatives is not None
        others = torch.einsum("be,bke->bk", inputs.teacher_queries, inputs.teacher_negatives)
        return torch.cat((inputs.teacher_positives[:, None], others), 1)

    def _counted(self, inputs: PairInputs) -> torch.Tensor:
        """`(B, 1 + K)` candidates that are there; a negative that is the row's document is none."""
        usable = usable_negatives(inputs.negative_ids, inputs.document_ids, inputs.present)
        if self.once and inputs.negative_ids is not None:
            usable = first_in_row(inputs.negative_ids, usable)
        return torch.cat((torch.ones_like(usable[:, :1]), usable), 1)


def _log_softmax(logits: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Over the candidates that count `(B, 1 + K)`, -inf elsewhere."""
    return logits.masked_fill(~counted, -torch.inf).log_softmax(1)
