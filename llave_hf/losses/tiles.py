"""Log-sum-exp over all pairs of a batch, both ways, without ever holding all pairs.

With Q `(B, D)` this rank's queries and C `(N, D)` the documents of all ranks, the similarities s = Q Cᵀ are made tile
by tile. Forward, one pass of tiles gives

    S_i = Σ_{j counts} exp(s_ij (1/τ + α))   for each row i     (this rank's queries)
    T_j = Σ_{i counts} exp(s_ij (1/τ + α))   for each column j  (all documents; summed over ranks by the caller)

and backward a second pass the gradients, from row and column factors u, v:

    g_ij = exp(s_ij (1/τ + α)) (u_i + v_j) / τ,   dQ = g C,   dC = gᵀ Q.

The weight exp(α sg(s)) is a constant to the optimizer, hence 1/τ and not 1/τ + α in g. Vectors are unit vectors, so
the logits lie within ±(1/τ + α) = ±59 and plain exponentials in float32 need no running maximum; where the bound
passes `SAFE_EXPONENT` the exponentials are float64's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .negatives import same_content

SAFE_EXPONENT = 70.0  # exp(70) * 2^20 rows is far from float32's largest number
MAX_EXPONENT = 650.0  # the same for float64


@dataclass(frozen=True)
class PairTiles:
    """All pairs of some queries with some documents, one tile at a time.

    Args:
        queries: `(B, D)`.
        documents: `(N, D)`.
        sharpness: 1/τ + α.
        row_offset: Column of the positive of row 0; row i's is `row_offset + i`.
        query_ids, document_ids: `(B,)` content hashes of the rows, or None.
        all_query_ids, all_document_ids: `(N,)` of the columns, or None.
        tile_size: Rows and columns of a tile.
    """

    queries: torch.Tensor
    documents: torch.Tensor
    sharpness: float
    row_offset: int
    query_ids: torch.Tensor | None
    document_ids: torch.Tensor | None
    all_query_ids: torch.Tensor | None
    all_document_ids: torch.Tensor | None
    tile_size: int

    def sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """S `(B,)` and T `(N,)` over the negatives that count; positives are left out of both."""
        dtype = exponent_dtype(self.sharpness, self.queries.dtype)
        rows = torch.zeros(len(self.queries), dtype=dtype, device=self.queries.device)
        columns = torch.zeros(len(self.documents), dtype=dtype, device=self.queries.device)
        for row, column, exponentials in self._tiles(dtype):
            rows[row] += exponentials.sum(1)
            columns[column] += exponentials.sum(0)
        return rows, columns

    def gradients(self, row_factors: torch.Tensor, column_factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`Σ_j e_ij (u_i + v_j) C_j` `(B, D)` and `Σ_i e_ij (u_i + v_j) Q_i` `(N, D)`."""
        dtype = exponent_dtype(self.sharpness, self.queries.dtype)
        to_queries, to_documents = torch.zeros_like(self.queries), torch.zeros_like(self.documents)
        for row, column, exponentials in self._tiles(dtype):
            weights = exponentials.mul_(row_factors[row, None] + column_factors[None, column])
            weights = weights.to(self.queries.dtype)
            to_queries[row].addmm_(weights, self.documents[column])
            to_documents[column].addmm_(weights.T, self.queries[row])
        return to_queries, to_documents

    def _tiles(self, dtype: torch.dtype) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        for row_start in range(0, len(self.queries), self.tile_size):
            row = slice(row_start, min(row_start + self.tile_size, len(self.queries)))
            for column_start in range(0, len(self.documents), self.tile_size):
                column = slice(column_start, min(column_start + self.tile_size, len(self.documents)))
                tile = (self.queries[row] @ self.documents[column].T).to(dtype).mul_(self.sharpness).exp_()
                self._leave_out(tile, row, column)
                yield row, column, tile

    def _leave_out(self, tile: torch.Tensor, row: slice, column: slice) -> None:
        """Zeroes the positives and the pairs that do not count."""
        mask = same_content(
            _part(self.query_ids, row),
            _part(self.document_ids, row),
            _part(self.all_query_ids, column),
            _part(self.all_document_ids, column),
        )
        if mask is not None:
            tile.masked_fill_(mask, 0)
        shift = self.row_offset + row.start - column.start
        tile.diagonal(shift).zero_()


def exponent_dtype(sharpness: float, dtype: torch.dtype) -> torch.dtype:
    """What exponentials of logits up to `sharpness` are kept in."""
    return torch.float64 if dtype == torch.float64 or sharpness > SAFE_EXPONENT else torch.float32


def _part(ids: torch.Tensor | None, where: slice) -> torch.Tensor | None:
    return None if ids is None else ids[where]
