"""How hard a negative is: what is added to its logit (LLaVE, Eq. 5: alpha * sg(h), where h = s in the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

HARDNESS_MODES = ("in_batch_negatives", "hard_negatives", "all_negatives")
HARDNESS_SOURCES = ("self", "teacher", "ema", "column")


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
    """

    strength: float
    mode: str = "in_batch_negatives"
    source: str = "self"
    max_weight: float | None = None

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
    def from_vectors(self) -> bool:
        """Whether forward needs another model's vectors."""
        return self.source in ("teacher", "ema")


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
    """

    source: str
    strength: torch.Tensor
    log_cap: float | None = None
    columns: torch.Tensor | None = None

    @property
    def slope(self) -> torch.Tensor | None:
        """α `(B,)` where the log-weight is α s: then 1/τ and α are one factor of s, and nothing needs adding."""
        return self.strength if self.source == "self" and self.log_cap is None else None

    @property
    def needs_similarities(self) -> bool:
        """Whether unscaled similarities are needed."""
        return self.source == "self" and self.log_cap is not None

    def tile(
        self, similarities: torch.Tensor | None, teacher: torch.Tensor | None, row: slice, column: slice
    ) -> torch.Tensor:
        """Log-weights `(R, C)`, from the model's or the teacher's similarities `(R, C)` or the columns' numbers."""
        hardness = self.columns[None, column] if self.columns is not None else teacher
        if self.source == "self":
            hardness = similarities
        assert hardness is not None
        return log_weights(self.strength[row, None], hardness, self.log_cap)
