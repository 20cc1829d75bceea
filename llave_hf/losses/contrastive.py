"""LLaVE's loss: contrastive learning in which hard negatives weigh more (arXiv 2503.04812, Eq. 5 to 8).

In shapes: B local rows, W ranks, N = B * W, K explicit negatives a query, D dimensions, E dimensions of a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from .assembly import anchor_shares, assemble, reference_weights
from .blocks import MAX_EXPONENT, exponent_dtype
from .effective import LossStatistics
from .gathering import gather_columns, gather_ids
from .graded import GradedLabels, check_weights
from .hardness import Hardness, check_focal_margin
from .inputs import PairInputs, check
from .matryoshka import truncated, truncations
from .measure import measure
from .negatives import NegativeRules
from .own import own_logits, own_similarities
from .temperature import Temperature
from .tiles import PairTiles
from .weighted import WeightedContrast

DIRECTIONS = ("query_to_doc", "doc_to_query")


class HardnessWeightedContrastiveLoss(nn.Module):
    """Cross entropy of s/τ for the positive against s/τ + α·sg(h) for every negative, over the pairs of all ranks.

    Returns the mean over *local* rows. Averaged over ranks, as DDP averages gradients, it is the loss of one process
    on the concatenated batch, with no factor of the world size. Exact without holding B x N logits, see `tiles.py`.

    Args:
        temperature: τ; 0.02 in the paper (the published code's `logit_scale` is 1/τ = 50). Several, one for each task:
            a pair's is that of its query's task (`task_ids`).
        hardness_strength: α; 9 in the paper. 0 gives InfoNCE.
        hardness_mode: Which negatives are weighted, see [`Hardness`].
        directions: Both, averaged, is the published code; `("query_to_doc",)` is the paper's Eq. 8.
        gather_across_devices: Whether the documents of all ranks are candidates.
        tile_size: Rows of similarities that are held at once, of twice as many columns. Changes memory and speed only.
        hardness_source: h: `"self"` (s, the paper), `"teacher"`, `"ema"` or `"column"`, see [`Hardness`].
        max_weight: The largest weight e^(αh), or None.
        learn_temperature: Whether log τ is a parameter, see [`Temperature`].
        false_negative_margin: m: a pair with s > s_positive + m, of the anchor's own positive, does not count.
        teacher_margin: The same in the similarities of a teacher, whose vectors are given to forward.
        share_negatives: Whether explicit negatives are negatives of all queries over ranks, not only of their own.
        count_duplicates_once: Whether content that is repeated in the batch (equal ids) counts once: as a negative,
            and pairs in the mean. The loss is then that of the batch without its duplicates.
        matryoshka_dims: Sum of the losses of vectors that are cut to so many dimensions and normalised again.
        matryoshka_weights: A factor for each; 1 by default.
        track_effective_negatives: Whether `statistics` has (Σw)²/Σw² (about 1 % of the time).
        compiler: A backend of torch.compile (`"inductor"`) that fuses what is done to a tile between its products,
            worth it on a GPU; None: eagerly. The results are the same up to the order of sums.
        keep_tiles_mib: Memory for exponentials that forward keeps for backward, which saves one of four products.
        hardness_reference: `"none"`, or `"positive"`: h less that of the anchor's own positive, see [`Hardness`].
        focal_margin: m of Focal-InfoNCE (arXiv 2310.06918): logits s²/τ of positives and s(s + m)/τ of negatives,
            which are differentiated. It takes the place of weights: α must be 0.
        margin_strategy: What both margins are counted in, see [`NegativeRules`].
        contrastive_weight: Of the loss above in the sum; 0: it is not computed, and there are no statistics.
        distill_weight: Of the loss of graded labels in the sum, see [`GradedLabels`]; 0: there is none.
        distill_source: Whose grades: `"column"` or `"teacher"`.
        teacher_temperature: By which grades are divided before their softmax; None: each row's τ.

    `statistics` describes the last forward of a training step, see [`LossStatistics`]; `distilled` is its mean loss
    of graded labels over this rank's rows, without its weight, or None.
    """

    statistics: LossStatistics | None = None
    distilled: torch.Tensor | None = None

    def __init__(
        self,
        temperature: float | Sequence[float] = 0.02,
        hardness_strength: float = 9.0,
        hardness_mode: str = "in_batch_negatives",
        directions: Sequence[str] = DIRECTIONS,
        gather_across_devices: bool = True,
        tile_size: int = 512,
        *,
        hardness_source: str = "self",
        max_weight: float | None = None,
        learn_temperature: bool = False,
        false_negative_margin: float | None = None,
        teacher_margin: float | None = None,
        share_negatives: bool = False,
        count_duplicates_once: bool = False,
        matryoshka_dims: Sequence[int] = (),
        matryoshka_weights: Sequence[float] | None = None,
        track_effective_negatives: bool = False,
        keep_tiles_mib: float = 16.0,
        compiler: str | None = None,
        hardness_reference: str = "none",
        focal_margin: float | None = None,
        margin_strategy: str = "absolute",
        contrastive_weight: float = 1.0,
        distill_weight: float = 0.0,
        distill_source: str = "column",
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__()
        unknown = [direction for direction in directions if direction not in DIRECTIONS]
        if unknown or not directions or len(set(directions)) < len(directions):
            raise ValueError(f"directions is {list(directions)!r}; give one or both of {', '.join(DIRECTIONS)}.")
        if tile_size < 1:
            raise ValueError(f"tile_size is {tile_size}; it must be positive.")
        if keep_tiles_mib < 0:
            raise ValueError(f"keep_tiles_mib is {keep_tiles_mib}; it must not be negative.")
        check_weights(contrastive_weight, distill_weight)
        check_focal_margin(focal_margin)
        self.hardness = Hardness(hardness_strength, hardness_mode, hardness_source, max_weight, hardness_reference)
        self.temperatures = Temperature(temperature, learn_temperature)
        self.hardness.refuse_mere_temperature(self.temperatures.values[0])
        self.rules = NegativeRules(
            false_negative_margin, teacher_margin, count_duplicates_once, share_negatives, margin_strategy
        )
        self.graded = GradedLabels(distill_weight, distill_source, teacher_temperature, count_duplicates_once)
        self.contrastive_weight = contrastive_weight
        self.focal_margin = focal_margin
        self._check_focal(hardness_strength)
        self.directions = tuple(directions)
        self.gather_across_devices = gather_across_devices
        self.tile_size = tile_size
        self.matryoshka = truncations(matryoshka_dims, matryoshka_weights)
        self.track_effective_negatives = track_effective_negatives
        self.compiler = compiler
        self.keep_bytes = int(keep_tiles_mib * 2**20)
        if hardness_source != "column":
            self._check_exponent(self._steepness / min(self.temperatures.values) + hardness_strength)

    @property
    def temperature(self) -> float | tuple[float, ...]:
        """τ, or one for each task."""
        values = self.temperatures.values
        return values if self.temperatures.per_task else values[0]

    @property
    def scale(self) -> float:
        """1 / temperature; with several, the largest."""
        return 1.0 / min(self.temperatures.values)

    def forward(
        self,
        query_embeddings: torch.Tensor,
        document_embeddings: torch.Tensor,
        negative_embeddings: torch.Tensor | None = None,
        query_ids: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        negative_ids: torch.Tensor | None = None,
        negative_mask: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        task_ids: torch.Tensor | None = None,
        hardness_strength: float | torch.Tensor | None = None,
        document_hardness: torch.Tensor | None = None,
        negative_hardness: torch.Tensor | None = None,
        teacher_query_embeddings: torch.Tensor | None = None,
        teacher_document_embeddings: torch.Tensor | None = None,
        teacher_negative_embeddings: torch.Tensor | None = None,
        positive_scores: torch.Tensor | None = None,
        negative_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of B pairs.

        Args:
            query_embeddings, document_embeddings: `(B, D)`, L2-normalised; row i of one belongs to row i of the other.
            negative_embeddings: `(B, K, D)`, negatives of their own query, or of all with `share_negatives`.
            query_ids, document_ids: `(B,)` integers, equal where the content is equal: pairs with the same query or
                the same document are no negatives.
            negative_ids: `(B, K)` integers; a negative that equals a row's document does not count for it.
            negative_mask: `(B, K)`, False where a row has fewer negatives.
            labels: `(B,)` integers: pairs with equal labels are no negatives. Below 0: unknown.
            task_ids: `(B,)` integers that choose each row's temperature.
            hardness_strength: α of this call, one number or `(B,)`, instead of the constructor's.
            document_hardness, negative_hardness: `(B,)`, `(B, K)` h of `hardness_source="column"`: what a document
                is worth as a negative of others.
            teacher_query_embeddings, teacher_document_embeddings, teacher_negative_embeddings: `(B, E)`, `(B, E)`,
                `(B, K, E)`, L2-normalised vectors of the teacher or the moving-average copy.
            positive_scores, negative_scores: `(B,)`, `(B, K)` grades of `distill_source="column"`: how well a row's
                candidates answer. High is good, the opposite of a negative's hardness.

        Raises:
            ValueError: Shapes do not fit together, vectors are not normalised, or the settings need more.
        """
        vectors = {
            "queries": query_embeddings,
            "documents": document_embeddings,
            "negatives": negative_embeddings,
            "teacher_queries": teacher_query_embeddings,
            "teacher_documents": teacher_document_embeddings,
            "teacher_negatives": teacher_negative_embeddings,
        }
        # bf16 moves the loss by up to 0.045: logits of ±59 need more than its eight bits.
        dtype = torch.promote_types(query_embeddings.dtype, torch.float32)
        inputs = PairInputs(
            **{name: None if x is None else x.to(dtype) for name, x in vectors.items()},  # type: ignore[arg-type]
            query_ids=query_ids,
            document_ids=document_ids,
            negative_ids=negative_ids,
            negative_mask=negative_mask,
            labels=labels,
            document_hardness=document_hardness,
            negative_hardness=negative_hardness,
            positive_scores=positive_scores,
            negative_scores=negative_scores,
        )
        check(inputs, self.hardness, self.rules, asks_teacher=self.graded.asks_teacher)
        self.graded.check(inputs)
        scale = self.temperatures.scales(inputs.size, task_ids, like=inputs.queries)
        strength = self._strength(hardness_strength, inputs)
        self.distilled = None
        self._check_exponent(self._bound(scale, strength, inputs))
        parts = self.matryoshka or ((inputs.queries.shape[1], 1.0),)
        with torch.autocast(inputs.queries.device.type, enabled=False):  # its products would be bf16's
            losses = [
                weight * self._loss(truncated(inputs, dims), scale, strength, record=place == 0)
                for place, (dims, weight) in enumerate(parts)
            ]
        return torch.stack(losses).sum()

    def _loss(self, inputs: PairInputs, scale: torch.Tensor, strength: torch.Tensor, record: bool) -> torch.Tensor:
        """Of vectors of one width: both losses by their weights."""
        contrastive, shares, own = None, None, None
        if inputs.negatives is not None and (self.graded.weight or "query_to_doc" in self.directions):
            own = own_similarities(inputs)
        if self.contrastive_weight:
            contrastive, shares = self._contrastive(inputs, own, scale, strength, record)
            contrastive = contrastive if self.contrastive_weight == 1 else self.contrastive_weight * contrastive
            if not self.graded.weight:
                return contrastive
        elif self.rules.count_duplicates_once:
            shares = anchor_shares(*gather_ids(inputs, self.gather_across_devices), self.rules, inputs.size)
        by_row = self.graded.losses(inputs, scale, own)
        distilled = (by_row.mean() if shares is None else (by_row * shares).sum()).to(inputs.queries.dtype)
        if record:
            self.distilled = distilled.detach()
        distilled = self.graded.weight * distilled
        return distilled if contrastive is None else contrastive + distilled

    def _contrastive(
        self,
        inputs: PairInputs,
        similarities: torch.Tensor | None,
        scale: torch.Tensor,
        strength: torch.Tensor,
        record: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss of pairs, and the share of each row in the mean; `similarities` of own negatives `(B, K)`."""
        if "query_to_doc" not in self.directions:
            inputs = replace(inputs, negatives=None)
        if not self.hardness.from_vectors and self.rules.teacher_margin is None:  # a teacher grades, and no more
            inputs = replace(inputs, teacher_queries=None, teacher_documents=None, teacher_negatives=None)
        references = reference_weights(inputs, strength, self.hardness)
        columns = gather_columns(
            inputs, self.gather_across_devices, self.rules, references if self.hardness.caps_by_anchor else None
        )
        shares = anchor_shares(columns.integers, columns.offset, self.rules, inputs.size)
        rows, blocks = assemble(inputs, columns, scale, strength, self.hardness, self.rules)
        differentiable = torch.is_grad_enabled()
        tiles = PairTiles(
            rows=rows,
            blocks=blocks,
            tile_size=self.tile_size,
            dtype=exponent_dtype(self._bound(scale, strength, inputs), inputs.queries.dtype),
            directions=("query_to_doc" in self.directions, "doc_to_query" in self.directions),
            keep_bytes=self.keep_bytes if differentiable else 0,
            compiler=self.compiler,
            focal_margin=self.focal_margin,
        )
        own = None
        if inputs.negatives is not None:
            assert similarities is not None
            own = own_logits(
                inputs,
                similarities,
                columns,
                scale,
                strength,
                self.hardness,
                self.rules,
                references,
                self.focal_margin,
            )
        loss = WeightedContrast.apply(
            inputs.queries,
            inputs.documents,
            inputs.negatives if self.rules.share_negatives else None,
            own,
            scale,
            tiles,
            shares,
            self.gather_across_devices,
            references if self.hardness.weighs_in_batch else None,
        )
        if record and differentiable:
            self.statistics = measure(tiles, strength, self.gather_across_devices, self.track_effective_negatives)
        return loss, shares

    def _strength(self, given: float | torch.Tensor | None, inputs: PairInputs) -> torch.Tensor:
        """α of each row `(B,)`."""
        value = self.hardness.strength if given is None else given
        like = inputs.queries
        strength = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
        if strength.ndim > 0 and strength.shape != (inputs.size,):
            raise ValueError(
                f"hardness_strength has shape {tuple(strength.shape)}; give a number or ({inputs.size},) of them."
            )
        if strength.numel() and not bool((strength >= 0).all()):
            raise ValueError(f"hardness_strength is {float(strength.min()):g}; it must not be negative.")
        self._check_focal(float(strength.max()) if self.focal_margin is not None and strength.numel() else 0.0)
        return strength.expand(inputs.size)

    def _bound(self, scale: torch.Tensor, strength: torch.Tensor, inputs: PairInputs) -> float:
        """No logit is larger."""
        if not inputs.size:
            return 0.0
        weight = float(strength.max())
        if self.hardness.source == "column":
            given = [x for x in (inputs.document_hardness, inputs.negative_hardness) if x is not None and x.numel()]
            weight *= max((float(x.abs().max()) for x in given), default=0.0)
        return float(scale.detach().max()) * self._steepness + weight

    @property
    def _steepness(self) -> float:
        """The largest logit of vectors, times τ and without weights."""
        return 1.0 if self.focal_margin is None else 1.0 + self.focal_margin

    def _check_focal(self, strength: float) -> None:
        if self.focal_margin is not None and strength > 0:
            raise ValueError(
                f"focal_margin is {self.focal_margin:g} and hardness_strength {strength:g}: both make hard negatives "
                "count more. Set hardness_strength to 0, or leave focal_margin out."
            )

    @staticmethod
    def _check_exponent(bound: float) -> None:
        if not bound <= MAX_EXPONENT:
            raise ValueError(
                f"1/temperature + hardness_strength is {bound:g}, over {MAX_EXPONENT:g}, where exponentials overflow; "
                "raise temperature or lower hardness_strength (times the largest hardness in a column)."
            )


__all__ = ["DIRECTIONS", "HardnessWeightedContrastiveLoss"]
