"""Muon for the matrices of hidden layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """Two optimizers behind one interface: schedulers, checkpoints and loggers see a single one.

    Muon (Jordan et al., 2024; `torch.optim.Muon`) orthogonalises the update of a weight matrix, which trains small
    transformers from random weights in about half the steps; it knows matrices only. Embeddings, norms, biases and
    convolutions go to AdamW. Whole matrices are needed on every rank: DDP works, sharded parameters (FSDP, ZeRO-3)
    do not.

    Args:
        named_parameters: Of the model; those without `requires_grad` are left out.
        muon_lr: Learning rate of the matrices.
        adamw_lr: Learning rate of the rest.
        weight_decay: Of matrices; the rest is not decayed.
        betas: AdamW's.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        trained = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
        matrices = [parameter for name, parameter in trained if parameter.ndim == 2 and "embed" not in name]
        rest = [parameter for name, parameter in trained if parameter.ndim != 2 or "embed" in name]
        self.muon = Muon(matrices, lr=muon_lr, weight_decay=weight_decay)
        self.adamw = AdamW(rest, lr=adamw_lr, betas=betas, weight_decay=0.0, foreach=True)
        # The groups are the very dictionaries of the two: what a scheduler writes here is read there.
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]
