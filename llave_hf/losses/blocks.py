"""One tile of pairs: similarities, masks and weights become exponentials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .hardness import TileWeights
from .negatives import PairMask, leave_out

SAFE_EXPONENT = 70.0  # exp(70) * 2^20 rows is far from float32's largest number
MAX_EXPONENT = 650.0  # the same for float64


@dataclass(frozen=True, eq=False)
class Rows:
    """This rank's queries.

    Args:
        vectors: `(B, D)`.
        scale: 1/τ of each `(B,)`.
        offset: Column of the positive of row 0; row i's is `offset + i`.
        teacher: `(B, E)` another model's vectors, or None.
        counts: `(B,)` how much each counts as a negative of a column, or None for 1.
    """

    vectors: torch.Tensor
    scale: torch.Tensor
    offset: int = 0
    teacher: torch.Tensor | None = None
    counts: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """N columns: the documents of all ranks, or the k-th explicit negatives of all ranks.

    Args:
        vectors: `(N, D)`.
        mask: Which pairs count.
        weights: Their log-weights, or None for none.
        teacher: `(N, E)` another model's vectors, or None.
        counts: `(N,)` how much each counts as a negative of a row, or None for 1.
        anchors: Whether columns are anchors too, with rows as their negatives.
    """

    vectors: torch.Tensor
    mask: PairMask
    weights: TileWeights | None = None
    teacher: torch.Tensor | None = None
    counts: torch.Tensor | None = None
    anchors: bool = True

    @property
    def needs_similarities(self) -> bool:
        """Whether s itself is looked at, and not only the logit."""
        return self.mask.score is not None or (self.weights is not None and self.weights.needs_similarities)

    def sharpness(self, rows: Rows, row: slice) -> torch.Tensor:
        """What similarities are multiplied with `(R, 1)`: 1/τ, and α where the log-weight is α s."""
        scale = rows.scale[row, None]
        slope = None if self.weights is None else self.weights.slope
        return scale if slope is None else scale + slope[row, None]


@dataclass(eq=False)
class Tile:
    """e^logit of R rows x C columns, 0 where a pair counts for neither; changed in place by whoever gets it.

    Args:
        block, row, column: Where it stands.
        exponentials: `(R, C)`.
        out_of_rows, out_of_columns: `(R, C)` what rows, and what columns, leave out by a margin, True where out; where
            the cap of weights differs by anchor, factors of the exponentials instead, 0 where out; or None.
        slopes: `(R, C)` the logit's derivative by s, times τ, where it is not 1 throughout; else None.
    """

    block: Block
    row: slice
    column: slice
    exponentials: torch.Tensor
    out_of_rows: torch.Tensor | None = None
    out_of_columns: torch.Tensor | None = None
    slopes: torch.Tensor | None = None


def make_tile(
    rows: Rows,
    block: Block,
    row: slice,
    column: slice,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
    left_out: torch.Tensor | None = None,
    as_logits: bool = False,
    focal_margin: float | None = None,
) -> Tile:
    """One tile of exponentials.

    Args:
        rows, block, row, column: Which pairs.
        dtype: What exponentials are computed in, see [`exponent_dtype`].
        out: `(R, C)` memory for logits, in the vectors' type.
        left_out: Two integers, to which pairs are added that rows, and that columns, leave out.
        as_logits: Leaves logits, -inf where a pair counts for neither, for a kernel that exponentiates them.
        focal_margin: m of s(s + m) instead of s, or None.
    """
    logits = torch.mm(rows.vectors[row], block.vectors[column].T, out=out)
    teacher = None
    if rows.teacher is not None and block.teacher is not None:
        teacher = rows.teacher[row] @ block.teacher[column].T
    similarities = logits if block.needs_similarities else None
    out_of_rows, out_of_columns = block.mask.out_by_margin(similarities, teacher, row, column)
    extra = None
    if block.weights is not None and block.weights.slope is None:
        extra = block.weights.tile(similarities, teacher, row, column)
    kept = None
    if block.weights is not None and block.weights.row_references is not None:
        logs = block.weights.tile(similarities, teacher, row, column) if extra is None else extra
        kept = tuple(None if x is None else x.exp_() for x in block.weights.excess(logs, row, column))
    slopes = None
    if focal_margin is not None:
        slopes = 2 * logits + focal_margin
        logits.mul_(logits + focal_margin)
    logits.mul_(block.sharpness(rows, row))
    if extra is not None:
        logits.add_(extra)
    mask = block.mask.out_for_both(row, column)
    if mask is not None:
        leave_out(logits, mask, -math.inf)
    diagonal = rows.offset + row.start - column.start  # positives; in other blocks each row's own negative
    logits.diagonal(diagonal).fill_(-math.inf)
    if left_out is not None:
        for place, margin in enumerate((out_of_rows, out_of_columns)):
            left_out[place] += _count(mask, margin, logits.shape, diagonal)
    exponentials = logits if as_logits else logits.to(dtype).exp_()
    if kept is not None:
        out_of_rows, out_of_columns = (
            factors if out is None or factors is None else factors.masked_fill_(out, 0)
            for factors, out in zip(kept, (out_of_rows, out_of_columns), strict=True)
        )
    return Tile(block, row, column, exponentials, out_of_rows, out_of_columns, slopes)


def _count(
    mask: torch.Tensor | None, margin: torch.Tensor | None, shape: torch.Size, diagonal: int
) -> torch.Tensor | int:
    """Number of pairs of a tile that either leaves out, positives apart."""
    if margin is not None:
        either = margin.clone()
        if mask is not None:
            leave_out(either, mask, True)
    elif mask is None:
        return 0
    elif mask.dtype == torch.bool:
        either = mask.expand(shape)
    else:
        return len(mask) - (mask % shape[1] - mask // shape[1] == diagonal).count_nonzero()
    return either.count_nonzero() - either.diagonal(diagonal).count_nonzero()


def exponent_dtype(bound: float, dtype: torch.dtype) -> torch.dtype:
    """What exponentials of logits up to `bound` are kept in."""
    return torch.float64 if dtype == torch.float64 or bound > SAFE_EXPONENT else torch.float32
