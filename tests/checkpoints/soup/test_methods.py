"""The mathematics of merging against dense float64 definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from llave_hf.checkpoints.soup import methods
from llave_hf.checkpoints.soup.methods import Magnitudes, linear, slerp, ties

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of a test lies in several pieces, the last of them shorter."""
    monkeypatch.setattr(methods, "_PIECE", 64)


def weights(count: int, *, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (17, 13)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def mixed(how: object, tensors: Sequence[Tensor], *arguments: object) -> Tensor:
    out = torch.full_like(tensors[0], float("nan"))
    how(tensors, *arguments, out)  # type: ignore[operator]
    return out


def dense_slerp(one: Tensor, other: Tensor, t: float) -> Tensor:
    a, b = one.double().flatten(), other.double().flatten()
    angle = torch.acos((a / a.norm()) @ (b / b.norm()))
    return ((((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()).reshape(one.shape)


def dense_ties(
    tensors: Sequence[Tensor], base: Tensor, shares: Sequence[float], density: float, scale: float
) -> Tensor:
    """Algorithm 1 of the paper, number by number; its mean is weighted here."""
    deltas = [(tensor.double() - base.double()).flatten().tolist() for tensor in tensors]
    for delta in deltas:
        least = sorted(map(abs, delta), reverse=True)[round(density * len(delta)) - 1]
        delta[:] = [value if abs(value) >= least else 0.0 for value in delta]
    found = []
    for place in range(base.numel()):
        column = [delta[place] for delta in deltas]
        sign = math.copysign(1.0, sum(share * value for share, value in zip(shares, column, strict=True)))
        agreeing = [(share, value) for share, value in zip(shares, column, strict=True) if value * sign > 0]
        total = sum(share for share, _ in agreeing)
        found.append(sum(share * value for share, value in agreeing) / total if total else 0.0)
    return base.double() + scale * torch.tensor(found, dtype=torch.float64).reshape(base.shape)


def thresholds(tensors: Sequence[Tensor], base: Tensor, density: float) -> list[float]:
    found = []
    for tensor in tensors:
        magnitudes = Magnitudes(density)
        magnitudes.count(tensor, base)
        magnitudes.halfway()
        magnitudes.count(tensor, base)
        found.append(magnitudes.threshold())
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_is_the_mean_of_float64_rounded_once(dtype: torch.dtype) -> None:
    tensors, shares = weights(3, dtype=dtype), (0.5, 0.3, 0.2)
    expected = sum(share * tensor.double() for share, tensor in zip(shares, tensors, strict=True))
    assert torch.equal(mixed(linear, tensors, shares), expected.to(dtype))  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_models_does_not_matter(dtype: torch.dtype) -> None:
    tensors = weights(3, dtype=dtype)
    back = mixed(linear, tensors[::-1], (0.2, 0.3, 0.5))
    assert torch.allclose(mixed(linear, tensors, (0.5, 0.3, 0.2)), back, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_model_twice_is_that_model_and_a_weight_of_one_is_its_model(dtype: torch.dtype) -> None:
    one, other = weights(2, dtype=dtype)
    base = weights(4, dtype=dtype)[3]
    for how in (linear, slerp):
        assert torch.equal(mixed(how, [one, one], (0.4, 0.6)), one)
        assert torch.equal(mixed(how, [one, other], (1.0, 0.0)), one)
        assert torch.equal(mixed(how, [one, other], (0.0, 1.0)), other)
    assert torch.equal(mixed(ties, [one, one], base, (0.4, 0.6), [0.0, 0.0], 1.0), one)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slerp_is_on_the_arc(dtype: torch.dtype, t: float) -> None:
    one, other = weights(2, dtype=dtype)
    found = mixed(slerp, [one, other], (1 - t, t))
    assert torch.allclose(found.double(), dense_slerp(one, other, t), rtol=torch.finfo(dtype).eps, atol=1e-12)


def test_slerp_keeps_a_length_that_both_have() -> None:
    one, other = (tensor.double() / tensor.double().norm() for tensor in weights(2))
    for t in (0.2, 0.5, 0.9):
        assert mixed(slerp, [one, other], (1 - t, t)).norm().item() == pytest.approx(1.0, abs=1e-12)
    assert mixed(linear, [one, other], (0.5, 0.5)).norm() < 0.9


@pytest.mark.parametrize("factor", [1.5, -1.0, 0.0])
def test_slerp_of_parallel_opposite_and_zero_tensors_is_the_line(factor: float) -> None:
    (one,) = weights(1)
    tensors = [one, factor * one]
    assert torch.equal(mixed(slerp, tensors, (0.3, 0.7)), mixed(linear, tensors, (0.3, 0.7)))


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_is_the_papers_algorithm(
    dtype: torch.dtype, density: float, shares: tuple[float, ...], scale: float
) -> None:
    *tensors, base = weights(4, dtype=dtype)
    found = mixed(ties, tensors, base, shares, thresholds(tensors, base, density), scale)
    expected = dense_ties(tensors, base, shares, density, scale)
    assert torch.allclose(found.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-12)


def test_ties_by_hand() -> None:
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    changes = torch.tensor([[4.0, -3.0, 0.5, 2.0], [2.0, 5.0, 0.1, -2.0]])
    tensors = list(base + changes)
    # Half of each is kept: 4, -3 of the first, 2 and 5 and, being as large as 2, -2 of the second.
    assert thresholds(tensors, base, 0.5) == [3.0, 2.0]
    # 4 and 2 agree; of -3 and 5 the sum is positive, so 5 alone counts; 0.5 and 0.1 are trimmed; -2 stands alone.
    found = mixed(ties, tensors, base, (0.5, 0.5), [3.0, 2.0], 1.0)
    assert found.tolist() == [1 + 3, 1 + 5, 1, 1 - 2]


def test_signs_that_balance_leave_the_base() -> None:
    base = torch.zeros(2)
    found = mixed(ties, [torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 2.0])], base, (0.5, 0.5), [0.0, 0.0], 1.0)
    assert found.tolist() == [0, 2]


@pytest.mark.parametrize("density", [1e-6, 0.01, 0.2, 0.5, 0.999, 1.0])
def test_what_is_kept_is_ranked_over_all_weights_and_exactly(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = (500, 3, 1200)
    # Magnitudes over sixty orders, many of them equal, so that bins of all kinds decide.
    changes = [torch.randn(size, generator=generator) * 10.0 ** (torch.arange(size) % 60 - 30) for size in sizes]
    changes[2][:400] = changes[2][400:800]
    magnitudes, frozen = Magnitudes(density), torch.randn(700, generator=generator)
    for last in (False, True):
        for change in changes:
            magnitudes.count(change, torch.zeros_like(change))
        magnitudes.count(frozen, frozen)  # no part of what was trained
        if not last:
            magnitudes.halfway()
    ranked = torch.cat(changes).abs().sort(descending=True).values
    assert magnitudes.threshold() == ranked[max(1, round(density * len(ranked))) - 1].item()


def test_a_model_that_was_not_trained_has_no_threshold() -> None:
    (base,) = weights(1)
    assert thresholds([base], base, 0.2) == [0.0]
