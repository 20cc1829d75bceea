"""Fused kernels for GPUs: what is done to a tile between its products, one kernel a pass (`torch.compile`).

Eagerly, a tile is read and written once for each of exponential, masks, sums and factors, which on a GPU takes as long
as a product. The results are those of the eager path up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

Pointwise = Callable[..., Any]


def exponentials_and_sums(
    logits: torch.Tensor,
    dtype: torch.dtype,
    out_of_rows: torch.Tensor | None,
    out_of_columns: torch.Tensor | None,
    row_counts: torch.Tensor | None,
    column_counts: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """e^logit `(R, C)`, Σ_j c_j e_ij `(R,)` and Σ_i r_i e_ij `(C,)`, each without what its anchor leaves out."""
    exponentials = torch.exp(logits.to(dtype))
    by_rows, by_columns = without(exponentials, out_of_rows), without(exponentials, out_of_columns)
    if column_counts is not None:
        by_rows = by_rows * column_counts.to(dtype)
    if row_counts is not None:
        by_columns = by_columns * row_counts.to(dtype)[:, None]
    return exponentials, by_rows.sum(1), by_columns.sum(0)


def weighted(
    exponentials: torch.Tensor,
    row_factors: torch.Tensor,
    column_factors: torch.Tensor | None,
    out_of_rows: torch.Tensor | None,
    out_of_columns: torch.Tensor | None,
    row_shares: torch.Tensor,
    column_counts: torch.Tensor | None,
) -> torch.Tensor:
    """e_ij (u_i c_j + r_i v_j) / τ_i `(R, C)`, each term where the pair counts for its anchor: `row_factors` u_i/τ_i,
    `row_shares` r_i/τ_i."""
    factors = row_factors[:, None]
    if column_counts is not None:
        factors = factors * column_counts.to(factors.dtype)
    factors = without(factors, out_of_rows)
    if column_factors is not None:
        factors = factors + without(column_factors[None] * row_shares[:, None], out_of_columns)
    return exponentials * factors


def without(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Zero where the mask is true, or times the mask where it is one of factors; `values` are left as they are."""
    if mask is None:
        return values
    return torch.where(mask, 0.0, values) if mask.dtype == torch.bool else values * mask


@cache
def compiled(function: Pointwise, backend: str = "inductor") -> Pointwise:
    """The function as one graph for tiles of any size; eager where Dynamo has compiled it too often in a process."""
    return torch.compile(function, dynamic=True, backend=backend)
