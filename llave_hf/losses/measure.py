"""Statistics of a batch: how many pairs were masked, how many negatives count in effect."""

from __future__ import annotations

import torch

from llave_hf import distributed

from .blocks import Rows
from .effective import LossStatistics
from .negatives import leave_out
from .tiles import PairTiles, slices

SAMPLED_ROWS = 256


@torch.no_grad()
def measure(tiles: PairTiles, strength: torch.Tensor, gather: bool, effective: bool) -> LossStatistics:
    """After `tiles.sums()`. Over all ranks where `gather`."""
    rows, columns = len(tiles.rows.vectors), len(tiles.blocks[0].vectors)
    used = [count for count, on in zip(tiles.left_out, tiles.directions, strict=True) if on]
    left_out = torch.stack(used).double().mean()
    sizes, sampled = effective_sizes(tiles) if effective else (left_out.new_zeros(()), 0)
    numbers = torch.stack(
        [left_out, strength.double().sum(), sizes, sizes.new_tensor(sampled), sizes.new_tensor(rows)]
    )
    if gather:
        numbers = distributed.all_reduce_sum(numbers)
    out, strengths, total, samples, anchors = numbers.tolist()
    pairs = anchors * (columns - 1)
    return LossStatistics(
        negatives=(pairs - out) / anchors if anchors else 0.0,
        masked_share=out / pairs if pairs else 0.0,
        effective_negatives=total / samples if effective and samples else None,
        hardness_strength=strengths / anchors if anchors else 0.0,
    )


def effective_sizes(tiles: PairTiles) -> tuple[torch.Tensor, int]:
    """Sum over some rows of (Σw)²/Σw² with w = e^(αh) of the in-batch negatives that count, and how many rows.

    Every n-th row of the whole batch is taken, so that the number of ranks does not change which.
    """
    rows, block = tiles.rows, tiles.blocks[0]
    step = max(1, len(block.vectors) // SAMPLED_ROWS)
    first = -rows.offset % step
    row = slice(first, len(rows.vectors), step)
    count = len(range(first, len(rows.vectors), step))
    sums, squares = (torch.zeros(count, dtype=torch.float64, device=rows.vectors.device) for _ in range(2))
    for column in slices(len(block.vectors), tiles.tile_size):
        weights = _weights(tiles, rows, row, column)
        sums += weights.sum(1)
        squares += weights.square().sum(1)
    counted = squares > 0
    return (sums[counted].square() / squares[counted]).sum(), int(counted.sum())


def _weights(tiles: PairTiles, rows: Rows, row: slice, column: slice) -> torch.Tensor:
    """w `(R, C)`, 0 where a pair does not count."""
    block = tiles.blocks[0]
    similarities = rows.vectors[row] @ block.vectors[column].T
    teacher = None
    if rows.teacher is not None and block.teacher is not None:
        teacher = rows.teacher[row] @ block.teacher[column].T
    logs = torch.zeros_like(similarities)
    if block.weights is not None:
        logs = block.weights.tile(similarities, teacher, row, column).expand_as(similarities)
        excess, _ = block.weights.excess(logs, row, column)
        logs = logs if excess is None else logs + excess
    weights = logs.double().exp()
    for mask in (
        block.mask.out_for_both(row, column),
        block.mask.out_by_margin(similarities, teacher, row, column)[0],
    ):
        if mask is not None:
            leave_out(weights, mask)
    own = torch.arange(len(rows.vectors), device=similarities.device)[row, None] + rows.offset
    return weights.masked_fill_(own == torch.arange(len(block.vectors), device=own.device)[None, column], 0)
