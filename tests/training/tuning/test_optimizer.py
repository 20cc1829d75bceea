"""Muon beside AdamW: each parameter in its place, scheduled and saved as one."""

from __future__ import annotations

import copy

import torch
from torch import nn

from llave_hf.training.tuning.optimizer import MuonWithAdamW


def make() -> tuple[nn.Module, MuonWithAdamW]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "linear": nn.Linear(4, 3), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    return model, MuonWithAdamW(model.named_parameters(), muon_lr=0.1, adamw_lr=0.01, weight_decay=0.1)


def step(model: nn.Module, optimizer: MuonWithAdamW) -> None:
    optimizer.zero_grad()
    model["linear"](model["embed"](torch.arange(5))).square().sum().backward()
    optimizer.step()


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    model, optimizer = make()
    assert [id(p) for p in optimizer.muon.param_groups[0]["params"]] == [id(model["linear"].weight)]
    adamw = {id(p) for group in optimizer.adamw.param_groups for p in group["params"]}
    assert adamw == {id(model["embed"].weight), id(model["linear"].bias)}


def test_a_scheduler_reaches_both() -> None:
    model, optimizer = make()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.0)
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer)
    scheduler.step()
    assert [group["lr"] for group in optimizer.muon.param_groups + optimizer.adamw.param_groups] == [0.0, 0.0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_saved_state_goes_on_to_the_same_weights() -> None:
    model, optimizer = make()
    step(model, optimizer)
    other, resumed = make()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] = 0.05  # groups stay shared after loading
    for _ in range(3):
        step(model, optimizer)
        step(other, resumed)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
