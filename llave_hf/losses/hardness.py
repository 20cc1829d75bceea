"""How hard a negative is: what is added to its logit (LLaVE, Eq. 5: alpha * sg(h), where h = s in the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

HARDNESS_MODES = ("in_batch_negatives", "hard_negatives", "all_negatives")
HARDNESS_SOURCES = ("self", "teacher", "ema", "column")
HARDNESS_REFERENCES = ("none", "positive")


@dataclass(frozen=True)
class Hardness:
    """Where weights e^(αh) come from, which negatives have one, and how large it may be.

    Args:
        strength: α; 9 in the paper, 0.5 in the published code's defaults, 0 for plain InfoNCE.
        mode: Which negatives are weighted, in sentence-transformers' words: `"in_batch_negatives"`,
            `"hard_negatives"` (a row's own explicit ones) or `"all_negatives"`.
        source: h: `"self"` (the similarity itself; the policy is its own reward model, LLaVE section 3.3),
            `"teacher"` (cosines of a frozen model's vectors), `"ema"` (of a moving-average copy's) or `"column"` (a
            number that the data give to each document).
        max_weight: The largest weight, or None.
        reference: What h is measured from: `"none"` (0), or `"positive"`: the weight is divided by that of the
            anchor's own positive, e^(αh_ij - αh_ii).
    """

    strength: float
    mode: str = "in_batch_negatives"
    source: str = "self"
    max_weight: float | None = None
    reference: str = "none"

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"hardness_strength is {self.strength}; it must not be negative (0: no weighting).")
        if self.mode not in HARDNESS_MODES:
            raise ValueError(f"hardness_mode is {self.mode!r}; choose one of {', '.join(map(repr, HARDNESS_MODES))}.")
        if self.source not in HARDNESS_SOURCES:
            raise ValueError(
                f"hardness_source is {self.source!r}; choose one of {', '.join(map(repr, HARDNESS_SOURCES))}."
            )
        if self.max_weight is not None and self.max_weight <= 0:
            raise ValueError(f"max_weight is {self.max_weight}; it must be positive, or None for no cap.")
        if self.reference not in HARDNESS_REFERENCES:
            raise ValueError(
                f"hardness_reference is {self.reference!r}; choose one of {', '.join(map(repr, HARDNESS_REFERENCES))}."
            )
        if self.relative and self.source == "column":
            raise ValueError(
                "hardness_reference is 'positive' and hardness_source 'column': a column says what a document is "
                "worth as a negative, and nothing of a positive for its own query. Use 'teacher' or 'ema', or leave "
                "hardness_reference out."
            )

    def refuse_mere_temperature(self, temperature: float) -> None:
        """Relative to the positive, the model's own cosines are no weight.

        Raises:
            ValueError: s/τ + α(s - s_ii) for every in-batch negative is InfoNCE at τ/(1 + ατ), its gradient scaled.
        """
        if self.relative and self.source == "self" and self.weighs_in_batch and self.max_weight is None:
            same = temperature / (1 + self.strength * temperature)
            raise ValueError(
                "hardness_reference 'positive' with hardness_source 'self' is a lower temperature and no weight: "
                "s/temperature + strength * (s - s_positive) is InfoNCE at temperature/(1 + strength*temperature), "
                f"here {same:.4g}, its gradient times {same / temperature:.4g}. Set temperature to {same:.4g} and "
                "hardness_strength to 0, or take hardness_source teacher or ema."
            )

    @property
    def weighs_in_batch(self) -> bool:
        """Whether in-batch negatives have weights."""
        return self.mode != "hard_negatives"

    @property
    def weighs_explicit(self) -> bool:
        """Whether a row's own explicit negatives have weights."""
        return self.mode != "in_batch_negatives"

    @property
    def log_cap(self) -> float | None:
        """Largest αh, or None."""
        return None if self.max_weight is None else math.log(self.max_weight)

    @property
    def relative(self) -> bool:
        """Whether h is measured from the anchor's own positive."""
        return self.reference == "positive"

    @property
    def caps_by_anchor(self) -> bool:
        """Whether the cap of an in-batch negative's weight depends on whose negative it is."""
        return self.relative and self.weighs_in_batch and self.max_weight is not None

    @property
    def from_vectors(self) -> bool:
        """Whether forward needs another model's vectors."""
        return self.source in ("teacher", "ema")


def check_focal_margin(margin: float | None) -> None:
    """Raises ValueError where Focal-InfoNCE, which takes the place of weights, has a margin below 0."""
    if margin is not None and not margin >= 0:
        raise ValueError(f"focal_margin is {margin}; it must not be negative (its paper: 0.3).")


def log_weights(strength: torch.Tensor, hardness: torch.Tensor, log_cap: float | None) -> torch.Tensor:
    """min(α h, log cap), as a new tensor; shapes are broadcast."""
    weights = strength * hardness
    return weights if log_cap is None else weights.clamp_(max=log_cap)


@dataclass(frozen=True)
class TileWeights:
    """Log-weights of B rows x N columns, made tile by tile.

    Args:
        source: See [`Hardness`].
        strength: α of each row `(B,)`.
        log_cap: Largest log-weight, or None.
        columns: h of each column `(N,)` where the source is the data's.
        row_references, column_references: αh of each anchor's own positive, `(B,)` and `(N,)`, where a cap is of what
            lies above it. (Without a cap it is one factor of an anchor's sum, and no matter of tiles.)
    """

    source: str
    strength: torch.Tensor
    log_cap: float | None = None
    columns: torch.Tensor | None = None
    row_references: torch.Tensor | None = None
    column_references: torch.Tensor | None = None

    @property
    def slope(self) -> torch.Tensor | None:
        """α `(B,)` where the log-weight is α s: then 1/τ and α are one factor of s, and nothing needs adding."""
        return self.strength if self.source == "self" and self.tile_cap is None else None

    @property
    def tile_cap(self) -> float | None:
        """The largest log-weight of a tile; None also where each anchor has its own, see [`excess`]."""
        return None if self.row_references is not None else self.log_cap

    @property
    def needs_similarities(self) -> bool:
        """Whether unscaled similarities are needed."""
        return self.source == "self" and self.log_cap is not None

    def excess(
        self, log_weights: torch.Tensor, row: slice, column: slice
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What the cap takes off log-weights `(R, C)` for rows, and for columns, as anchors: 0 or less; None where
        the cap is the same for both, or there is none."""
        if self.row_references is None:
            return None, None
        assert self.log_cap is not None
        limits = self.row_references[row, None].to(log_weights.dtype) + self.log_cap
        by_rows = (limits - log_weights).clamp_(max=0)
        if self.column_references is None:
            return by_rows, None
        limits = self.column_references[None, column].to(log_weights.dtype) + self.log_cap
        return by_rows, (limits - log_weights).clamp_(max=0)

    def tile(
        self, similarities: torch.Tensor | None, teacher: torch.Tensor | None, row: slice, column: slice
    ) -> torch.Tensor:
        """Log-weights `(R, C)`, from the model's or the teacher's similarities `(R, C)` or the columns' numbers."""
        hardness = self.columns[None, column] if self.columns is not None else teacher
        if self.source == "self":
            hardness = similarities
        assert hardness is not None
        return log_weights(self.strength[row, None], hardness, self.tile_cap)
