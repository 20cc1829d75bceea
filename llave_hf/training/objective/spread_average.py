"""The moving average of a model that FSDP2 spreads over ranks: each rank averages its own share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from llave_hf import distributed
from llave_hf.training.engines.engines import reshard
from llave_hf.training.step.lockstep import in_order, order_parts

from .moving_average import check_averaged

if TYPE_CHECKING:
    from llave_hf.training.trainer import LlaveTrainer


class SpreadAverage:
    """As [`MovingAverage`]; its forward is the model's own, with the averages in the place of the weights meanwhile.

    Args:
        trainer: Whose model is spread; all ranks make, call and save it.
        decay: d of θ' ← d θ' + (1 − d) θ.
    """

    def __init__(self, trainer: LlaveTrainer, decay: float) -> None:
        self.trainer = trainer
        self.decay = decay
        self._trained: dict[str, Any] = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
        self._averages = {name: share.clone() for name, share in self._shares().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Follows the model one step."""
        torch._foreach_lerp_(list(self._averages.values()), list(self._shares().values()), 1 - self.decay)

    @torch.no_grad()
    def embed(
        self,
        micro_batches: Sequence[dict[str, Any]],
        model_input: Callable[[dict[str, Any]], dict[str, Any]],
        precision: AbstractContextManager[Any],
    ) -> torch.Tensor:
        """Embeddings `(M, D)` of the distinct samples of a batch; ranks run as many micro-batches of each kind."""
        trainer = self.trainer
        model, engine = trainer.model_wrapped, trainer.step_engine
        parts = order_parts(micro_batches, trainer.processing_class, engine, device=trainer.args.device)
        held = {name: share.clone() for name, share in self._shares().items()}
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

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages, whole."""
        return {
            name: distributed.whole_like(average, self._trained[name]).cpu()
            for name, average in self._averages.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from [`state_dict`].

        Raises:
            ValueError: Other parameters are trained now.
        """
        check_averaged(state, self._averages)
        for name, average in self._averages.items():
            average.copy_(distributed.share_like(state[name], self._trained[name]))

    def _shares(self) -> dict[str, torch.Tensor]:
        """What this rank holds of the trained parameters."""
        return {name: parameter.detach().to_local() for name, parameter in self._trained.items()}

    def _put(self, shares: Mapping[str, torch.Tensor]) -> None:
        for name, share in self._shares().items():
            share.copy_(shares[name])
