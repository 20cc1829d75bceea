"""A moving average of the trained weights: a steadier judge of which negatives are hard than the model of the moment.

Each optimizer step moves the averages: θ' ← d θ' + (1 − d) θ, from θ' = θ.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


class Average(ABC):
    """Averages of the parameters that are trained, and the embeddings that a model with them gives.

    Args:
        model: That is trained.
        decay: d.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._averages = self._begin(model)

    @abstractmethod
    def _begin(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """θ' before the first step, as far as this rank holds it, by name."""

    def _held(self) -> dict[str, torch.Tensor]:
        """θ, as far as this rank holds it, by name."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    def _whole(self, name: str) -> torch.Tensor:
        """The whole average of a parameter."""
        return self._averages[name]

    def _share(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """What this rank holds of a whole average."""
        return whole

    @torch.no_grad()
    def update(self) -> None:
        """Follows the model one step."""
        torch._foreach_lerp_(list(self._averages.values()), list(self._held().values()), 1 - self.decay)

    @abstractmethod
    def embed(
        self,
        micro_batches: Sequence[dict[str, Any]],
        model_input: Callable[[dict[str, Any]], dict[str, Any]],
        precision: AbstractContextManager[Any],
    ) -> torch.Tensor:
        """Embeddings `(M, D)` of the distinct samples of a batch, without gradient.

        Args:
            micro_batches: As the collator made them; taken one at a time.
            model_input: Takes one to the model's device.
            precision: Autocast, or a context that does nothing.
        """

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages, whole, on the CPU; all ranks call it."""
        return {name: self._whole(name).detach().cpu() for name in self._averages}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from [`state_dict`].

        Raises:
            ValueError: Other parameters are trained now.
        """
        if state.keys() != self._averages.keys():
            raise ValueError(
                f"the checkpoint averages {len(state)} parameters and {len(self._averages)} are trained now; go on "
                "with the settings that it was made with."
            )
        for name, average in self._averages.items():
            average.copy_(self._share(name, state[name]))


class MovingAverage(Average):
    """A copy of the model with the averages in it, on every rank. Parameters that are not trained are shared with the
    model, so the copy takes as much memory as what is trained.

    Args:
        model: On its device, before a distributed wrapper takes it. Every rank has the same whole weights.
        decay: d.
    """

    def _begin(self, model: nn.Module) -> dict[str, torch.Tensor]:
        shared: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.model = copy.deepcopy(model, shared).eval()
        return {name: self.model.get_parameter(name).requires_grad_(False) for name in self._trained}

    @torch.no_grad()
    def embed(
        self,
        micro_batches: Sequence[dict[str, Any]],
        model_input: Callable[[dict[str, Any]], dict[str, Any]],
        precision: AbstractContextManager[Any],
    ) -> torch.Tensor:
        with precision:
            return torch.cat([self.model(micro_batches=[model_input(part)]).embeddings for part in micro_batches])
