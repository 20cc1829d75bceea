"""Mistakes that distributed contrastive losses are known for, planted one at a time.

Each must turn the comparison with one process red: a check that none of them trips would prove nothing. Takes what
it is planted with, which takes it out again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llave_hf import distributed
from llave_hf.losses import contrastive, gathering, graded, negatives


def dropped_gradient(patch: pytest.MonkeyPatch) -> None:
    """Documents get the gradient of their own rank's queries only: the gather is not differentiable."""

    def own_part(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.chunk(distributed.world_size())[distributed.rank()].clone()

    patch.setattr(distributed, "reduce_scatter_sum", own_part)


def shifted_labels(patch: pytest.MonkeyPatch) -> None:
    """Every rank takes the first rank's documents for its own: the offset of the labels is forgotten."""
    before = gathering.gather_columns

    def shifted(*arguments: Any) -> gathering.Columns:
        columns = before(*arguments)
        return gathering.Columns(**{**vars(columns), "offset": 0})

    patch.setattr(contrastive, "gather_columns", shifted)


def world_size_factor(patch: pytest.MonkeyPatch) -> None:
    """The loss is multiplied by the number of ranks, as if gradients were averaged once too often."""
    before = contrastive.HardnessWeightedContrastiveLoss.forward

    def multiplied(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        return before(self, *arguments, **options) * distributed.world_size()

    patch.setattr(contrastive.HardnessWeightedContrastiveLoss, "forward", multiplied)


def mask_after_weight(patch: pytest.MonkeyPatch) -> None:
    """A pair that is no negative keeps its place in the sum, weighted: the mask comes too late to take it out."""
    patch.setattr(negatives.PairMask, "out_by_margin", lambda *_: (None, None))
    patch.setattr(negatives.PairMask, "out_for_both", lambda *_: None)


def references_of_one_rank(patch: pytest.MonkeyPatch) -> None:
    """Columns are measured from the first rank's positives, whichever rank they are from."""
    before = gathering.gather_columns

    def first_rank(*arguments: Any) -> gathering.Columns:
        columns = before(*arguments)
        assert columns.references is not None
        own = columns.references.chunk(distributed.world_size())[0]
        return gathering.Columns(**{**vars(columns), "references": own.repeat(distributed.world_size())})

    patch.setattr(contrastive, "gather_columns", first_rank)


def grades_of_rows_with_negatives(patch: pytest.MonkeyPatch) -> None:
    """The mean of graded labels is over the rows that have negatives, of which ranks have unequally many."""
    before = graded.GradedLabels.losses

    def among_them(self: Any, *arguments: Any) -> torch.Tensor:
        losses = before(self, *arguments)
        return losses * len(losses) / max(1, int((losses != 0).sum()))

    patch.setattr(graded.GradedLabels, "losses", among_them)


FIRST = (dropped_gradient, shifted_labels, world_size_factor, mask_after_weight)
MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    function.__name__: function for function in (*FIRST, references_of_one_rank, grades_of_rows_with_negatives)
}
# The case that each is planted in.
PLANTED = {
    **{function.__name__: "false negatives left out" for function in FIRST},
    "references_of_one_rank": "relative to the positive, capped",
    "grades_of_rows_with_negatives": "graded labels",
}
