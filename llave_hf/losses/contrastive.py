"""LLaVE's loss: contrastive learning in which hard negatives weigh more (arXiv 2503.04812, Eq. 5 to 8).

In shapes: B local rows, W ranks, N = B * W, K explicit negatives a query, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from llave_hf import distributed

from .hardness import SelfHardness
from .negatives import usable_negatives
from .tiles import MAX_EXPONENT, PairTiles

DIRECTIONS = ("query_to_doc", "doc_to_query")
NORM_TOLERANCE = 0.02  # bfloat16 vectors are unit vectors to about 0.4 %


class HardnessWeightedContrastiveLoss(nn.Module):
    """Cross entropy of s/τ for the positive against s/τ + α·sg(s) for every negative, over the pairs of all ranks.

    Returns the mean over *local* rows. Averaged over ranks, as DDP averages gradients, it is the loss of one process
    on the concatenated batch, with no factor of the world size. Exact without holding B x N logits, see `tiles.py`.

    Args:
        temperature: τ; 0.02 in the paper (the published code's `logit_scale` is 1/τ = 50).
        hardness_strength: α; 9 in the paper. 0 gives InfoNCE.
        hardness_mode: Which negatives are weighted, see [`SelfHardness`].
        directions: Both, averaged, is the published code; `("query_to_doc",)` is the paper's Eq. 8.
        gather_across_devices: Whether the documents of all ranks are candidates.
        tile_size: Rows and columns of similarities that are held at once. Changes memory and speed only.
    """

    def __init__(
        self,
        temperature: float = 0.02,
        hardness_strength: float = 9.0,
        hardness_mode: str = "in_batch_negatives",
        directions: Sequence[str] = DIRECTIONS,
        gather_across_devices: bool = True,
        tile_size: int = 1024,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be positive (LLaVE: 0.02).")
        unknown = [direction for direction in directions if direction not in DIRECTIONS]
        if unknown or not directions or len(set(directions)) < len(directions):
            raise ValueError(f"directions is {list(directions)!r}; give one or both of {', '.join(DIRECTIONS)}.")
        if tile_size < 1:
            raise ValueError(f"tile_size is {tile_size}; it must be positive.")
        self.hardness = SelfHardness(hardness_strength, hardness_mode)
        self.temperature = temperature
        self.directions = tuple(directions)
        self.gather_across_devices = gather_across_devices
        self.tile_size = tile_size
        if self.scale + hardness_strength > MAX_EXPONENT:
            raise ValueError(
                f"1/temperature + hardness_strength is {self.scale + hardness_strength:g}, over {MAX_EXPONENT:g}, "
                "where exponentials overflow; raise temperature or lower hardness_strength."
            )

    @property
    def scale(self) -> float:
        """1 / temperature."""
        return 1.0 / self.temperature

    def forward(
        self,
        query_embeddings: torch.Tensor,
        document_embeddings: torch.Tensor,
        negative_embeddings: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        negative_ids: torch.Tensor | None = None,
        negative_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of B pairs.

        Args:
            query_embeddings, document_embeddings: `(B, D)`, L2-normalised; row i of one belongs to row i of the other.
            negative_embeddings: `(B, K, D)`, each a negative of its own query only.
            query_ids, document_ids: `(B,)` integers, equal where the content is equal: pairs with the same query or
                the same document are no negatives.
            negative_ids: `(B, K)` integers; a negative that equals its row's document does not count.
            negative_mask: `(B, K)`, False where a row has fewer negatives.

        Raises:
            ValueError: Shapes do not fit together, or vectors are not normalised.
        """
        _check_shapes(query_embeddings, document_embeddings, negative_embeddings)
        # bf16 moves the loss by up to 0.045: logits of ±59 need more than its eight bits.
        queries, documents = (_at_least_float32(x) for x in (query_embeddings, document_embeddings))
        own = None
        if negative_embeddings is not None and "query_to_doc" in self.directions:
            present = negative_mask
            if present is None:
                present = torch.ones(negative_embeddings.shape[:2], dtype=torch.bool, device=queries.device)
            own = self._own_negatives(
                queries,
                _at_least_float32(negative_embeddings),
                usable_negatives(negative_ids, document_ids, present.bool()),
            )
        settings = _Settings(
            scale=self.scale,
            strength=self.hardness.in_batch_strength,
            directions=self.directions,
            gather=self.gather_across_devices,
            tile_size=self.tile_size,
        )
        return _WeightedContrast.apply(queries, documents, own, query_ids, document_ids, settings)

    def _own_negatives(self, queries: torch.Tensor, negatives: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
        """Weighted logits `(B, K)` of explicit negatives, -inf where one does not count."""
        similarities = torch.einsum("bd,bkd->bk", queries, negatives)
        weights = self.hardness.explicit_strength * similarities.detach()
        return (similarities * self.scale + weights).masked_fill(~usable, -torch.inf)


@dataclass(frozen=True)
class _Settings:
    scale: float
    strength: float
    directions: tuple[str, ...]
    gather: bool
    tile_size: int


class _WeightedContrast(torch.autograd.Function):
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
        own: torch.Tensor | None,
        query_ids: torch.Tensor | None,
        document_ids: torch.Tensor | None,
        settings: _Settings,
    ) -> torch.Tensor:
        tiles = _strip(queries, documents, query_ids, document_ids, settings)
        size, offset = len(queries), tiles.row_offset
        positives = (queries * documents).sum(1) * settings.scale  # (B,)
        row_sums, column_sums = tiles.sums()
        if settings.gather:
            column_sums = distributed.all_reduce_sum(column_sums)
        positives = positives.to(row_sums.dtype)
        # softplus(log S - p) = -log(e^p / (e^p + S)); exact where S is zero (no negative counts: the loss is 0).
        row_logs = row_sums.log()
        if own is not None:
            row_logs = torch.logaddexp(row_logs, own.to(row_logs.dtype).logsumexp(1))
        column_logs = column_sums[offset : offset + size].log()
        by_direction = {"query_to_doc": row_logs, "doc_to_query": column_logs}
        margins = {name: by_direction[name] - positives for name in settings.directions}  # (B,) each
        loss = torch.stack([F.softplus(margin, threshold=1e9) for margin in margins.values()]).mean()
        ctx.settings, ctx.tiles, ctx.margins, ctx.own = settings, tiles, margins, own
        ctx.positives = positives
        return loss.to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        settings, tiles = ctx.settings, ctx.tiles
        size, offset, dtype = len(tiles.queries), tiles.row_offset, tiles.queries.dtype
        share = grad_output.to(ctx.positives.dtype) / (size * len(settings.directions))
        inverse: dict[str, torch.Tensor] = {}  # share / (e^p + S), from margins: nothing overflows
        at_positives = torch.zeros_like(ctx.positives)
        for name, margin in ctx.margins.items():
            inverse[name] = share * torch.exp(-ctx.positives - F.softplus(margin, threshold=1e9))
            at_positives -= share * torch.sigmoid(margin)
        none = torch.zeros_like(ctx.positives)
        rows, columns = inverse.get("query_to_doc", none), inverse.get("doc_to_query", none)
        if settings.gather:
            columns = distributed.all_gather(columns)
        to_queries, to_all_documents = tiles.gradients(rows * settings.scale, columns * settings.scale)
        to_documents = distributed.reduce_scatter_sum(to_all_documents) if settings.gather else to_all_documents
        at_positives = (at_positives * settings.scale).to(dtype)[:, None]
        to_queries += at_positives * tiles.documents[offset : offset + size]
        to_documents = to_documents + at_positives * tiles.queries
        to_own = None
        if ctx.own is not None:
            to_own = (torch.exp(ctx.own.to(rows.dtype)) * rows[:, None]).to(ctx.own.dtype)
        return to_queries, to_documents, to_own, None, None, None


def _strip(
    queries: torch.Tensor,
    documents: torch.Tensor,
    query_ids: torch.Tensor | None,
    document_ids: torch.Tensor | None,
    settings: _Settings,
) -> PairTiles:
    """This rank's queries against the documents of all ranks."""
    gathered = [documents, query_ids, document_ids]
    row_offset = 0
    if settings.gather:
        gathered = [None if x is None else distributed.all_gather(x) for x in gathered]
        row_offset = distributed.rank() * len(queries)
    all_documents, all_query_ids, all_document_ids = gathered
    assert all_documents is not None
    return PairTiles(
        queries=queries.detach(),
        documents=all_documents.detach(),
        sharpness=settings.scale + settings.strength,
        row_offset=row_offset,
        query_ids=query_ids,
        document_ids=document_ids,
        all_query_ids=all_query_ids,
        all_document_ids=all_document_ids,
        tile_size=settings.tile_size,
    )


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_shapes(queries: torch.Tensor, documents: torch.Tensor, negatives: torch.Tensor | None) -> None:
    if queries.ndim != 2 or queries.shape != documents.shape:
        raise ValueError(
            f"query_embeddings are {tuple(queries.shape)} and document_embeddings {tuple(documents.shape)}; both must "
            "be (B, D), a document for each query."
        )
    if negatives is not None and (negatives.ndim != 3 or negatives.shape[::2] != queries.shape):
        raise ValueError(
            f"negative_embeddings are {tuple(negatives.shape)}; with queries {tuple(queries.shape)} they must be "
            "(B, K, D)."
        )
    for name, vectors in (("query", queries), ("document", documents), ("negative", negatives)):
        if vectors is not None and vectors.numel():
            norms = vectors.detach().float().norm(dim=-1)
            if not bool(((norms - 1).abs() < NORM_TOLERANCE).all()):
                raise ValueError(
                    f"{name}_embeddings have norms from {norms.min():.3g} to {norms.max():.3g}; they must be "
                    "L2-normalised and finite."
                )


__all__ = ["DIRECTIONS", "HardnessWeightedContrastiveLoss"]
