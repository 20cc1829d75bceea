"""The moving average of a model that FSDP2 spreads over ranks: each rank averages its own share of every parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llave_hf import distributed
from llave_hf.training.engines.engines import Engine, reshard
from llave_hf.training.step.lockstep import in_order, order_parts

from .moving_average import Average


@dataclass(frozen=True)
class SpreadModel:
    """A model that is spread over ranks, and what its forward needs.

    Attributes:
        model: Whose parameters are shares (DTensors).
        wrapped: What runs: the model as the engine wrapped it.
        processor: The model's; makes the fillers that keep ranks in step.
        engine: What it asks of the order of micro-batches.
        device: Where ranks exchange how much they have.
    """

    model: nn.Module
    wrapped: nn.Module
    processor: Any
    engine: Engine
    device: torch.device


class SpreadAverage(Average):
    """Averages without a copy of the model: a forward is the model's own, with the averages in place of its weights.

    Args:
        spread: The model; all ranks make, call and save its average.
        decay: d.
    """

    def __init__(self, spread: SpreadModel, decay: float) -> None:
        self.spread = spread
        super().__init__(spread.model, decay)

    def _begin(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: share.clone() for name, share in self._held().items()}

    def _held(self) -> dict[str, torch.Tensor]:
        spread: dict[str, Any] = super()._held()
        return {name: parameter.to_local() for name, parameter in spread.items()}

    def _whole(self, name: str) -> torch.Tensor:
        return distributed.whole_like(self._averages[name], self._trained[name])

    def _share(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        return distributed.share_like(whole, self._trained[name])

    @torch.no_grad()
    def embed(
        self,
        micro_batches: Sequence[dict[str, Any]],
        model_input: Callable[[dict[str, Any]], dict[str, Any]],
        precision: AbstractContextManager[Any],
    ) -> torch.Tensor:
        """Ranks run as many micro-batches of each kind, the missing ones as fillers."""
        model, engine = self.spread.wrapped, self.spread.engine
        parts = order_parts(micro_batches, self.spread.processor, engine, device=self.spread.device)
        held = {name: share.clone() for name, share in self._held().items()}
        was_training = model.training
        model.eval()
        self._put(self._averages)
        try:
            with precision:
                rows = [model(micro_batches=[model_input(part.inputs)]).embeddings for part in parts]
        finally:
            reshard(model)  # else the next forward would find what this one gathered
            self._put(held)
            model.train(was_training)
        return in_order(torch.cat(rows), parts)

    def _put(self, shares: Mapping[str, torch.Tensor]) -> None:
        for name, share in self._held().items():
            share.copy_(shares[name])
