"""Log-sum-exp over all pairs of a batch, both ways, without ever holding all pairs.

With Q `(B, D)` this rank's queries, C `(N, D)` the documents of all ranks and similarities s = Q Cᵀ, logits of
negatives are l_ij = s_ij/τ_i + log w_ij. Forward, one pass of tiles gives

    S_i = Σ_j c_j e_ij    for each row i     (this rank's queries)
    T_j = Σ_i r_i e_ij    for each column j  (all documents; summed over ranks by the caller)

with e = exp(l) where a pair counts and 0 elsewhere, and backward a second pass the gradients, from row and column
factors u, v:

    g_ij = e_ij (u_i c_j + r_i v_j) / τ_i,   dQ = g C,   dC = gᵀ Q;   d(1/τ_i) = τ_i q_i·dQ_i.

Where logits are f(s)/τ with f(s) = s(s + m), g_ij has f'(s) = 2s + m as a further factor and d(1/τ_i) = τ_i Σ_j f g_ij
(without that factor).

The weight is a constant to the optimizer, hence 1/τ and not 1/τ + α in the gradient. Counts r, c are 1, or less where
content is repeated. Explicit negatives that are shared with all queries are further blocks of columns, without T.
Vectors are unit vectors, so logits lie within ±(1/τ + α) = ±59 and plain exponentials in float32 need no running
maximum; where the bound passes `SAFE_EXPONENT` the exponentials are float64's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from .blocks import Block, Rows, Tile, make_tile
from .fused import compiled, exponentials_and_sums, weighted, without

FACTOR_ROWS = 128  # at a time: for a whole tile their memory would be a second tile


@dataclass(eq=False)
class PairTiles:
    """All pairs of some queries with some columns, one tile at a time.

    Args:
        rows: Queries.
        blocks: Columns; the first are the documents.
        tile_size: Rows of a tile, which has twice as many columns.
        dtype: What exponentials are kept in.
        directions: Whether rows, and whether columns, are anchors.
        keep_bytes: Memory for exponentials that `sums` keeps for `gradients`, which then need no product for them.
        compiler: A backend of torch.compile for what is done between products, see `fused.py`; None: eagerly.
        focal_margin: m of s(s + m) instead of s, or None.
    """

    rows: Rows
    blocks: tuple[Block, ...]
    tile_size: int
    dtype: torch.dtype
    directions: tuple[bool, bool]
    keep_bytes: int = 0
    compiler: str | None = None
    focal_margin: float | None = None
    left_out: torch.Tensor = field(init=False)  # pairs of the first block that rows, and that columns, leave out
    _kept: dict[tuple[int, int, int], Tile] = field(default_factory=dict)

    def sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """S `(B,)` and T `(N,)`; positives are left out of both. Counts `left_out`, keeps what may be kept."""
        device = self.rows.vectors.device
        row_sums = torch.zeros(len(self.rows.vectors), dtype=self.dtype, device=device)
        column_sums = torch.zeros(len(self.blocks[0].vectors), dtype=self.dtype, device=device)
        self.left_out = torch.zeros(2, dtype=torch.long, device=device)
        self._kept = {}
        for tile in self._tiles(first_pass=True):
            if self.compiler is not None:
                row_part, column_part = self._fused_sums(tile)
                if self.directions[0]:
                    row_sums[tile.row] += row_part
                if self.directions[1] and tile.block.anchors:
                    column_sums[tile.column] += column_part
                continue
            if self.directions[0]:
                counts = tile.block.counts
                e = without(tile.exponentials, tile.out_of_rows)
                row_sums[tile.row] += e.sum(1) if counts is None else e @ counts[tile.column].to(self.dtype)
            if self.directions[1] and tile.block.anchors:
                counts = self.rows.counts
                e = without(tile.exponentials, tile.out_of_columns)
                column_sums[tile.column] += e.sum(0) if counts is None else counts[tile.row].to(self.dtype) @ e
        return row_sums, column_sums

    def gradients(
        self, row_factors: torch.Tensor, column_factors: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
        """From u `(B,)` and v `(N,)`: dQ `(B, D)`, dC `(N, D)` of each block, and Σ_j f g_ij `(B,)` where f(s) is
        not s."""
        vectors = self.rows.vectors
        scale = self.rows.scale.to(self.dtype)
        factors = _Factors(
            rows=row_factors * scale,
            shares=scale if self.rows.counts is None else scale * self.rows.counts.to(self.dtype),
            columns=column_factors,
        )
        to_queries = torch.zeros_like(vectors)
        to_columns = [
            torch.zeros(block.vectors.shape, dtype=vectors.dtype, device=vectors.device) for block in self.blocks
        ]
        by_curve = None if self.focal_margin is None else row_factors.new_zeros(len(vectors))
        room = _Room(vectors, self.dtype)
        for tile in self._tiles(first_pass=False):
            if self.compiler is None:
                for part in slices(len(tile.exponentials), FACTOR_ROWS):
                    tile.exponentials[part].mul_(self._weights(tile, part, factors, room))
                weights = tile.exponentials.to(vectors.dtype)
            else:
                weights = self._fused_weights(tile, factors).to(vectors.dtype)
            if by_curve is not None:
                by_curve[tile.row] += self._bend(weights, tile)
            to_queries[tile.row].addmm_(weights, tile.block.vectors[tile.column])
            to_columns[self.blocks.index(tile.block)][tile.column].addmm_(weights.T, vectors[tile.row])
        return to_queries, to_columns, by_curve

    def _bend(self, weights: torch.Tensor, tile: Tile) -> torch.Tensor:
        """Multiplies weights `(R, C)` with f'(s), in place; Σ_j f g_ij `(R,)`, where f = (f'² - m²) / 4."""
        assert self.focal_margin is not None and tile.slopes is not None
        products = weights * tile.slopes
        curve = torch.linalg.vecdot(products, tile.slopes) - self.focal_margin**2 * weights.sum(1)
        weights.copy_(products)
        return curve / 4

    def _kept_beside(self, block: Block) -> int:
        """Bytes a pair of what a kept tile has beside its exponentials: slopes, and caps by anchor."""
        caps = block.weights is not None and block.weights.row_references is not None
        return self.rows.vectors.dtype.itemsize * ((self.focal_margin is not None) + caps * (1 + block.anchors))

    def _fused_sums(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        """A tile's share of S and T; its logits become exponentials."""
        assert self.compiler is not None
        row_counts, column_counts = _counts(self.rows.counts, tile.row), _counts(tile.block.counts, tile.column)
        run = compiled(exponentials_and_sums, self.compiler)
        tile.exponentials, by_rows, by_columns = run(
            tile.exponentials, self.dtype, tile.out_of_rows, tile.out_of_columns, row_counts, column_counts
        )
        return by_rows, by_columns

    def _fused_weights(self, tile: Tile, factors: _Factors) -> torch.Tensor:
        """What [`_weights`] makes of a tile's exponentials, in one pass."""
        assert self.compiler is not None
        anchors = self.directions[1] and tile.block.anchors
        return compiled(weighted, self.compiler)(
            tile.exponentials,
            factors.rows[tile.row],
            factors.columns[tile.column] if anchors else None,
            tile.out_of_rows,
            tile.out_of_columns,
            factors.shares[tile.row],
            _counts(tile.block.counts, tile.column),
        )

    def _weights(self, tile: Tile, part: slice, factors: _Factors, room: _Room) -> torch.Tensor:
        """(u_i c_j + r_i v_j) / τ_i of some of a tile's rows, each where the pair counts for its anchor; may be
        broadcast."""
        by_row = factors.rows[tile.row][part, None]
        if tile.block.counts is not None:
            by_row = by_row * tile.block.counts[None, tile.column].to(self.dtype)
        by_row = without(by_row, None if tile.out_of_rows is None else tile.out_of_rows[part])
        if not (self.directions[1] and tile.block.anchors):
            return by_row
        by_column = without(
            factors.columns[None, tile.column], None if tile.out_of_columns is None else tile.out_of_columns[part]
        )
        shape = tile.exponentials[part].shape
        made = room.take(shape[0], shape[1])
        return torch.addcmul(by_row, factors.shares[tile.row][part, None], by_column, out=made)

    def _tiles(self, first_pass: bool) -> Iterator[Tile]:
        """Every tile, by rows. Whoever gets one may change it, unless it is the first pass, which keeps some."""
        room, kept_bytes = _Room(self.rows.vectors, self.rows.vectors.dtype), 0
        for row in slices(len(self.rows.vectors), self.tile_size):
            for number, block in enumerate(self.blocks):
                for column in slices(len(block.vectors), 2 * self.tile_size):
                    place = (number, row.start, column.start)
                    tile = None if first_pass else self._kept.pop(place, None)
                    if tile is None:
                        shape = (row.stop - row.start, column.stop - column.start)
                        size = shape[0] * shape[1] * (self.dtype.itemsize + self._kept_beside(block))
                        keep = first_pass and kept_bytes + size <= self.keep_bytes
                        tile = make_tile(
                            self.rows,
                            block,
                            row,
                            column,
                            self.dtype,
                            out=None if keep else room.take(*shape),
                            left_out=self.left_out if first_pass and number == 0 else None,
                            as_logits=first_pass and self.compiler is not None,
                            focal_margin=self.focal_margin,
                        )
                        if keep:
                            kept_bytes += size
                            self._kept[place] = tile
                    yield tile


@dataclass(frozen=True)
class _Factors:
    """What a tile's exponentials are multiplied with: `rows` u_i/τ_i and `shares` r_i/τ_i `(B,)`, `columns` v_j."""

    rows: torch.Tensor
    shares: torch.Tensor
    columns: torch.Tensor


class _Room:
    """Memory that one tile after another is written to."""

    def __init__(self, like: torch.Tensor, dtype: torch.dtype) -> None:
        self.memory = torch.empty(0, dtype=dtype, device=like.device)

    def take(self, rows: int, columns: int) -> torch.Tensor:
        """`(rows, columns)`, not initialised."""
        if self.memory.numel() < rows * columns:
            self.memory = self.memory.new_empty(rows * columns)
        return self.memory[: rows * columns].view(rows, columns)


def _counts(counts: torch.Tensor | None, part: slice) -> torch.Tensor | None:
    return None if counts is None else counts[part]


def slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
