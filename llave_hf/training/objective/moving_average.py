"""A moving-average copy of the model that is trained: a steadier judge of which negatives are hard."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """θ' ← d θ' + (1 − d) θ after each optimizer step, from θ' = θ.

    Parameters that are not trained are shared with the model: the copy takes as much memory as what is trained.

    Args:
        model: On its device, before a distributed wrapper takes it. Every rank has the same whole weights.
        decay: d.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        shared: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.model = copy.deepcopy(model, shared).eval()
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._trained = {name: model.get_parameter(name) for name in names}
        self._averages = {name: self.model.get_parameter(name).requires_grad_(False) for name in names}

    @torch.no_grad()
    def update(self) -> None:
        """Follows the model one step."""
        averages, trained = list(self._averages.values()), [p.detach() for p in self._trained.values()]
        torch._foreach_lerp_(averages, trained, 1 - self.decay)

    @torch.no_grad()
    def embed(
        self,
        micro_batches: Iterable[dict[str, Any]],
        model_input: Callable[[dict[str, Any]], dict[str, Any]],
        precision: AbstractContextManager[Any],
    ) -> torch.Tensor:
        """Embeddings `(M, D)` of the distinct samples of a batch.

        Args:
            micro_batches: As the collator made them; taken one at a time.
            model_input: Takes one to the model's device.
            precision: Autocast, or a context that does nothing.
        """
        with precision:
            return torch.cat([self.model(micro_batches=[model_input(part)]).embeddings for part in micro_batches])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages of what is trained."""
        return {name: average.detach().cpu() for name, average in self._averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from [`state_dict`].

        Raises:
            ValueError: Other parameters are trained now.
        """
        check_averaged(state, self._averages)
        for name, average in self._averages.items():
            average.copy_(state[name])


def check_averaged(state: Mapping[str, Any], averages: Mapping[str, Any]) -> None:
    """Refuses the averages of other parameters than those that are trained now.

    Raises:
        ValueError: Says so.
    """
    if state.keys() != averages.keys():
        raise ValueError(
            f"the checkpoint averages {len(state)} parameters and {len(averages)} are trained now; go on with the "
            "settings that it was made with."
        )
