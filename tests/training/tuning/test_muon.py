"""Muon: torch's arithmetic, in a dtype of choice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from llave_hf.training.tuning.muon import Muon, orthogonalise, orthogonalising_dtype, shares

SHAPES = ((6, 6), (4, 9), (9, 4))  # square, wide, tall
SETTINGS = {"coefficients": (3.4445, -4.7750, 2.0315), "steps": 5, "eps": 1e-7}


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(steps: int) -> Iterator[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield [torch.randn(shape, generator=generator) for shape in SHAPES]


def train(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for drawn in gradients(4):
        for parameter, gradient in zip(parameters, drawn, strict=True):
            parameter.grad = gradient
        optimizer.step()


def test_in_bfloat16_it_is_torch_to_the_bit() -> None:
    ours, theirs = matrices(), matrices()
    train(ours, Muon(ours, lr=0.1, weight_decay=0.2, orthogonalise_dtype=torch.bfloat16))
    train(theirs, torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.allclose(ours[0], matrices()[0], atol=0.05)


def test_in_float32_it_is_torch_but_for_rounding() -> None:
    ours, theirs = matrices(), matrices()
    train(ours, Muon(ours, lr=0.1, weight_decay=0.2, orthogonalise_dtype=torch.float32))
    train(theirs, torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2))
    for a, b, start in zip(ours, theirs, matrices(), strict=True):
        assert (a - b).norm() < 0.03 * (b - start).norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_keeps_directions_and_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    a, b, c = SETTINGS["coefficients"]
    values = values / values.norm()
    for _ in range(5):  # what the iteration does to each singular value, the vectors unchanged
        values = a * values + b * values**3 + c * values**5
    made = orthogonalise(update, torch.float32, **SETTINGS)
    assert made.dtype == torch.float32
    assert torch.allclose(made.double(), left @ torch.diag(values) @ right, atol=1e-5)
    assert ((values > 0.5) & (values < 1.3)).all()


def test_products_are_in_float32_on_cpus_and_in_bfloat16_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert orthogonalising_dtype(torch.device("cpu")) == torch.float32
    assert orthogonalising_dtype(torch.device("cuda")) == torch.bfloat16
    used = []
    monkeypatch.setattr(
        "llave_hf.training.tuning.muon.orthogonalise",
        lambda update, dtype, **settings: used.append(dtype) or orthogonalise(update, dtype, **settings),
    )
    parameters = matrices()
    train(parameters, Muon(parameters, lr=0.1, weight_decay=0.2))
    assert set(used) == {torch.float32}


def test_a_matrix_without_gradient_is_left_alone() -> None:
    parameters = matrices()
    parameters[0].grad = torch.ones(SHAPES[0])
    Muon(parameters, lr=0.1, weight_decay=0.2).step()
    assert torch.equal(parameters[1], matrices()[1])
    assert not torch.equal(parameters[0], matrices()[0])


def test_ranks_get_about_equal_shares() -> None:
    small, large = (128, 128), (384, 128)
    given = shares([small] * 24 + [large] * 15, 2)
    assert sorted(given[0] + given[1]) == list(range(39))
    costs = [sum(1 if index < 24 else 3 for index in indices) for indices in given]
    assert max(costs) - min(costs) <= 1
    assert shares([small], 3) == [[0], [], []]
