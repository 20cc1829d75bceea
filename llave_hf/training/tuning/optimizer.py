"""Muon beside AdamW as one optimizer, and a learning rate for each part of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from llave_hf.model.modeling_llave import LlaveModel

from .muon import Muon
from .parts import part_parameters


class MuonWithAdamW(Optimizer):
    """Two optimizers behind one interface: schedulers, checkpoints and loggers see a single one.

    [`Muon`] (Jordan et al., 2024) orthogonalises the update of a weight matrix, which trains small
    transformers from random weights in about half the steps; it knows matrices only. Embeddings, norms, biases and
    convolutions go to AdamW. Whole matrices are needed on every rank: DDP works, sharded parameters (FSDP, ZeRO-3)
    do not.

    Args:
        named_parameters: Of the model; those without `requires_grad` are left out.
        muon_lr: Learning rate of the matrices.
        adamw_lr: Learning rate of the rest.
        weight_decay: Of matrices; the rest is not decayed.
        betas, eps: AdamW's.
        adamw_groups: What AdamW trains beside, with rates of its own.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adamw_groups: Sequence[dict[str, Any]] = (),
    ) -> None:
        trained = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
        matrices = [parameter for name, parameter in trained if parameter.ndim == 2 and "embed" not in name]
        rest = [parameter for name, parameter in trained if parameter.ndim != 2 or "embed" in name]
        self.muon = Muon(matrices, lr=muon_lr, weight_decay=weight_decay)
        self.adamw = AdamW(
            [{"params": rest}, *adamw_groups], lr=adamw_lr, betas=betas, eps=eps, weight_decay=0.0, foreach=True
        )
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
        self.share_groups()

    def share_groups(self) -> None:
        """Takes over the groups of the two, where they have been replaced."""
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]


def set_part_rates(
    optimizer: Optimizer, model: LlaveModel, rates: Mapping[str, float] | None, *, learning_rate: float
) -> None:
    """Gives parts of the model their own learning rates, before the first step and before a scheduler is made.

    Each group of parameters is divided by part and keeps its other settings, so that biases and norms stay without
    weight decay. Beside Muon, a part's matrices get `muon_lr` times the part's rate / `learning_rate`.

    Args:
        optimizer: Just made.
        model: Whose parameters it holds, wrapped by PEFT or FSDP or not.
        rates: By part; parts that are not named keep what they have.
        learning_rate: What the parts' rates replace.

    Raises:
        ValueError: Nothing of a part is in the optimizer.
    """
    if not rates:
        return
    part_of = {id(parameter): part for part in rates for parameter in part_parameters(model, part)}
    found: set[str] = set()
    held = [optimizer.muon, optimizer.adamw] if isinstance(optimizer, MuonWithAdamW) else [optimizer]
    for one in held:
        groups = []
        for group in one.param_groups:
            for part, parameters in _by_part(group["params"], part_of).items():
                found.add(part)
                rate = group["lr"] if part == "" else rates[part] * (group["lr"] / learning_rate)
                groups.append({**group, "params": parameters, "lr": rate})
        one.param_groups = groups
    if isinstance(optimizer, MuonWithAdamW):
        optimizer.share_groups()
    if missing := sorted(set(rates) - found):
        raise ValueError(f"learning_rates names {', '.join(missing)}, of which nothing is trained; leave it out.")


def _by_part(parameters: Iterable[nn.Parameter], part_of: Mapping[int, str]) -> dict[str, list[nn.Parameter]]:
    """Under `""` those of other parts, which come first: Trainer logs the rate of the first group."""
    divided: dict[str, list[nn.Parameter]] = {"": []}
    for parameter in parameters:
        divided.setdefault(part_of.get(id(parameter), ""), []).append(parameter)
    return {part: members for part, members in divided.items() if members}
