"""Which pairs count as negatives. A masked pair is out of the sum altogether, whatever its weight would be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MARGIN_STRATEGIES = ("absolute", "relative")
FEW = 0.3  # share of repeated rows up to which only they are compared


@dataclass(frozen=True)
class NegativeRules:
    """Which negatives there are beside the documents of other pairs, and which do not count beyond equal ids.

    Args:
        false_negative_margin: A pair whose similarity passes its anchor's positive by more than this does not count.
        teacher_margin: The same in a teacher's similarities.
        count_duplicates_once: Whether content that is repeated in the batch counts once.
        share_negatives: Whether explicit negatives are negatives of all queries, over ranks.
        margin_strategy: What both margins are counted in: cosines (`"absolute"`) or shares of the positive's own
            (`"relative"`). In sentence-transformers' words, whose sign is the other one: its margin x is our -x.
    """

    false_negative_margin: float | None = None
    teacher_margin: float | None = None
    count_duplicates_once: bool = False
    share_negatives: bool = False
    margin_strategy: str = "absolute"

    def __post_init__(self) -> None:
        if self.margin_strategy not in MARGIN_STRATEGIES:
            raise ValueError(
                f"margin_strategy is {self.margin_strategy!r}; choose {' or '.join(map(repr, MARGIN_STRATEGIES))}."
            )

    def limits(self, positives: torch.Tensor, margin: float) -> torch.Tensor:
        """What negatives of anchors with these positives must not pass, any shape."""
        return margin_limits(positives, margin, self.margin_strategy)


def margin_limits(positives: torch.Tensor, margin: float, strategy: str) -> torch.Tensor:
    """s + m, or s + m|s|, which for a negative m is below s also where s is below 0."""
    return positives + (margin * positives.abs() if strategy == "relative" else margin)


@dataclass(frozen=True)
class Margin:
    """A pair whose similarity passes its anchor's positive by more than a margin is taken for a false negative.

    Args:
        row_limits: `(B,)` what row i drops is above it, see [`margin_limits`].
        column_limits: `(N,)` the same of the columns as anchors, or None where they are none.
    """

    row_limits: torch.Tensor
    column_limits: torch.Tensor | None

    def drops(self, similarities: torch.Tensor, row: slice, column: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(R, C)` pairs that rows, and that columns, leave out."""
        by_columns = None
        if self.column_limits is not None:
            by_columns = similarities > self.column_limits[None, column]
        return similarities > self.row_limits[row, None], by_columns


@dataclass(frozen=True)
class Equal:
    """Pairs whose codes are equal: `(B,)` of rows, `(N,)` of columns.

    Args:
        rows, columns: Codes, see [`shared_codes`].
        row_repeats, column_repeats: Which of them may be equal to any other, where they are few: then only they are
            compared. None: all are.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    row_repeats: torch.Tensor | None = None
    column_repeats: torch.Tensor | None = None

    def dense(self, row: slice, column: slice) -> torch.Tensor:
        """`(R, C)`, True where equal."""
        return self.rows[row, None] == self.columns[None, column]

    def sparse(self, row: slice, column: slice) -> torch.Tensor:
        """Places of the equal pairs in the flat tile."""
        assert self.row_repeats is not None and self.column_repeats is not None
        rows, columns = self.row_repeats[row].nonzero()[:, 0], self.column_repeats[column].nonzero()[:, 0]
        equal = (self.rows[row][rows, None] == self.columns[column][None, columns]).nonzero()
        return rows[equal[:, 0]] * len(self.columns[column]) + columns[equal[:, 1]]


@dataclass(frozen=True)
class PairMask:
    """What does not count among B rows x N columns.

    Args:
        equal: Where any of these are equal the column is no negative of the row, nor the row of the column.
        absent: `(N,)` True where a column is padding, or None.
        score, teacher: Margins in the model's own similarities and in a teacher's, or None.
    """

    equal: tuple[Equal, ...] = ()
    absent: torch.Tensor | None = None
    score: Margin | None = None
    teacher: Margin | None = None

    def out_for_both(self, row: slice, column: slice) -> torch.Tensor | None:
        """Pairs that count for neither row nor column: places in the flat tile (integers) where they are few, else
        `(R, C)` or `(1, C)`, True where out; None where all count."""
        if self.equal and self.absent is None and all(equal.row_repeats is not None for equal in self.equal):
            places = [equal.sparse(row, column) for equal in self.equal]
            return places[0] if len(places) == 1 else torch.cat(places).unique()
        mask = None
        for equal in self.equal:
            same = equal.dense(row, column)
            mask = same if mask is None else mask.logical_or_(same)
        if self.absent is not None:
            absent = self.absent[None, column]
            mask = absent if mask is None else mask.logical_or_(absent)
        return mask

    def out_by_margin(
        self, similarities: torch.Tensor | None, teacher: torch.Tensor | None, row: slice, column: slice
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """`(R, C)` pairs that rows, and that columns, leave out by a margin."""
        by_rows = by_columns = None
        for margin, values in ((self.score, similarities), (self.teacher, teacher)):
            if margin is not None and values is not None:
                rows, columns = margin.drops(values, row, column)
                by_rows = rows if by_rows is None else by_rows.logical_or_(rows)
                if columns is not None:
                    by_columns = columns if by_columns is None else by_columns.logical_or_(columns)
        return by_rows, by_columns


def shared_codes(*ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Integers of any size as int32 that are equal where they are: four times cheaper to compare in tiles."""
    codes = torch.unique(torch.cat([x.reshape(-1) for x in ids]), return_inverse=True)[1].to(torch.int32)
    parts = codes.split([x.numel() for x in ids])
    return tuple(part.reshape(x.shape) for part, x in zip(parts, ids, strict=True))


def with_unknown_apart(labels: torch.Tensor) -> torch.Tensor:
    """Labels `(N,)` in which each negative number, which means unknown, is equal to nothing else."""
    return torch.where(labels < 0, -1 - torch.arange(len(labels), device=labels.device), labels)


def equal_content(codes: torch.Tensor, own: slice) -> Equal | None:
    """Rows `own` of `(N,)` codes against all; None where no two are equal and nothing is to mask."""
    _, inverse, totals = torch.unique(codes, return_inverse=True, return_counts=True)
    repeated = totals[inverse] > 1
    share = float(repeated.float().mean()) if len(codes) else 0.0
    if share == 0:
        return None
    if share > FEW or codes.is_cuda:  # on a GPU comparing all is cheaper than asking which
        return Equal(codes[own], codes)
    return Equal(codes[own], codes, repeated[own], repeated)


def leave_out(tile: torch.Tensor, out: torch.Tensor, value: float | bool = 0) -> None:
    """Sets what is out, in either form of [`PairMask.out_for_both`], in place."""
    if out.dtype == torch.bool:
        tile.masked_fill_(out, value)
    else:
        tile.view(-1).index_fill_(0, out, value)


def multiplicities(codes: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """How often each of `(N,)` codes stands among those that are counted `(N,)`; at least 1."""
    inverse = torch.unique(codes, return_inverse=True)[1]
    ones = torch.ones_like(inverse) if counted is None else counted.to(inverse.dtype)
    totals = torch.zeros(len(codes), dtype=inverse.dtype, device=codes.device).index_add_(0, inverse, ones)
    return totals[inverse].clamp(min=1).double()


def usable_negatives(
    negative_ids: torch.Tensor | None, document_ids: torch.Tensor | None, present: torch.Tensor
) -> torch.Tensor:
    """Explicit negatives that count: those that are there and are not the row's own positive. All `(B, K)`."""
    if negative_ids is None or document_ids is None:
        return present
    return present & (negative_ids != document_ids[:, None])


def first_seen(negative_ids: torch.Tensor, all_document_ids: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Of own negatives `(B, K)`, those that are not in the sum already: as a document of the batch or earlier in
    their row."""
    return first_in_row(negative_ids, usable) & ~torch.isin(negative_ids, all_document_ids)


def first_in_row(negative_ids: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Of own negatives `(B, K)` that count, those whose content does not stand earlier in their row."""
    equal = negative_ids[:, :, None] == negative_ids[:, None, :]  # (B, K, K)
    earlier = (equal & usable[:, None, :]).tril(-1).any(2)
    return usable & ~earlier
