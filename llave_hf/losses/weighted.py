"""The loss of rows and blocks of columns as one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from llave_hf import distributed

from .inputs import row_products
from .tiles import PairTiles


class WeightedContrast(torch.autograd.Function):
    """The loss and its gradient over tiles.

    Each rank owns a strip: its queries against all documents. Only documents are gathered; column sums (N numbers) are
    summed over ranks; the queries' gradient is complete at home and the documents' is summed and scattered. The
    gradient is that of the sum of all ranks' losses, each scaled by the `grad_output` of *this* rank, which is the
    same on every rank as long as every rank scales its loss alike.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        documents: torch.Tensor,
        negatives: torch.Tensor | None,
        own: torch.Tensor | None,
        scale: torch.Tensor,
        tiles: PairTiles,
        shares: torch.Tensor | None,
        gather: bool,
        references: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The sum of each row's loss times its share `(B,)` (1/B where None).

        Args:
            queries, documents, scale: This rank's, `(B, D)` and `(B,)`: the values are those within `tiles`.
            negatives: `(B, K, D)` explicit negatives that are blocks of `tiles`, or None.
            own: Logits `(B, K)` of explicit negatives of their own query, -inf where one does not count, or None.
            gather: Whether the columns of `tiles` are those of all ranks.
            references: What is added to each positive's logit `(B,)`, a constant, or None.
        """
        size, offset = len(queries), tiles.rows.offset
        row_sums, column_sums = tiles.sums()
        if gather and tiles.directions[1]:
            column_sums = distributed.all_reduce_sum(column_sums)
        similarities = row_products(queries, documents)  # (B,), in float64 like all that is as small
        positives = (similarities if tiles.focal_margin is None else similarities.square()) * scale
        positives = positives if references is None else positives + references
        # softplus(log S - p) = -log(e^p / (e^p + S)); exact where S is zero (no negative counts: the loss is 0).
        row_logs = row_sums.double().log()
        if own is not None:
            row_logs = torch.logaddexp(row_logs, own.double().logsumexp(1))
        column_logs = column_sums[offset : offset + size].double().log()
        by_direction = zip((row_logs, column_logs), tiles.directions, strict=True)
        margins = [logs - positives if on else None for logs, on in by_direction]
        used = [margin for margin in margins if margin is not None]
        losses = torch.stack([F.softplus(margin, threshold=1e9) for margin in used]).mean(0)  # (B,)
        loss = losses.mean() if shares is None else (losses * shares).sum()
        ctx.save_for_backward(queries, documents, own, scale)
        ctx.tiles, ctx.margins, ctx.positives, ctx.shares, ctx.gather = tiles, margins, positives, shares, gather
        ctx.shared, ctx.similarities = negatives is not None, similarities
        return loss.to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, documents, own, scale = ctx.saved_tensors
        tiles: PairTiles = ctx.tiles
        shares = 1.0 / len(queries) if ctx.shares is None else ctx.shares
        share = grad_output.double() * shares / sum(tiles.directions)
        at_positives = torch.zeros_like(ctx.positives)
        factors = []  # share / (e^p + S) of rows and of columns, from margins: nothing overflows
        for margin in ctx.margins:
            factors.append(torch.zeros_like(ctx.positives))
            if margin is not None:
                factors[-1] = share * torch.exp(-ctx.positives - F.softplus(margin, threshold=1e9))
                at_positives -= share * torch.sigmoid(margin)
        rows, columns = (factor.to(tiles.dtype) for factor in factors)
        if ctx.gather and tiles.directions[1]:
            columns = distributed.all_gather(columns)
        with torch.autocast(queries.device.type, enabled=False):
            to_queries, (to_documents, *to_shared), by_curve = tiles.gradients(rows, columns)
        if ctx.gather:
            to_documents = distributed.reduce_scatter_sum(to_documents)
        if by_curve is not None:
            by_curve = by_curve / scale + at_positives * ctx.similarities.square()
            at_positives = at_positives * 2 * ctx.similarities
        at_positives = at_positives.to(queries.dtype)[:, None] * scale[:, None]
        to_queries.addcmul_(at_positives, documents)
        to_documents.addcmul_(at_positives, queries)
        to_scale = None
        if ctx.needs_input_grad[4]:
            to_scale = row_products(queries, to_queries) / scale if by_curve is None else by_curve
            to_scale = to_scale.to(scale.dtype)
        to_negatives = torch.stack(to_shared, dim=1) if ctx.shared else None
        if to_negatives is not None and ctx.gather:
            to_negatives = distributed.reduce_scatter_sum(to_negatives)
        to_own = None if own is None else (own.double().exp() * factors[0][:, None]).to(own.dtype)
        return to_queries, to_documents, to_negatives, to_own, to_scale, None, None, None, None
