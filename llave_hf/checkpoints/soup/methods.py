"""What becomes of one weight of several models: their mean, their arc, or what most of their training agrees on.

Tensors are read in pieces and computed in float64, so that equal weights stay equal to the bit and an order of models
changes nothing beyond the last rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_PIECE = 2**17  # numbers of a tensor that are float64 at a time; larger ones leave the processor's caches
_PARALLEL = 0.9995  # cosine from which an arc is a line: its sine would be rounding


def linear(tensors: Sequence[Tensor], shares: Sequence[float], out: Tensor) -> None:
    """The weighted mean, Σ wᵢ θᵢ (model soups, Wortsman et al., 2022).

    Args:
        tensors: One of each model, of any shape and floating type.
        shares: Their weights; sum to 1.
        out: Of the same shape, takes the result.
    """
    for place, parts in _pieces(*tensors):
        out.view(-1)[place] = sum(share * part for share, part in zip(shares, parts, strict=True))


def slerp(tensors: Sequence[Tensor], shares: Sequence[float], out: Tensor) -> None:
    """The point on the arc from one tensor to another, as vectors (Shoemake, 1985).

    The angle is that between the two, each as one long vector; lengths are mixed along with directions, so equal
    lengths are kept. Where the two are all but parallel, or one is zero, it is [`linear`].

    Args:
        tensors: Two, of any shape and floating type.
        shares: Their weights; the second is how far along the arc.
        out: Of the same shape, takes the result.
    """
    products = torch.zeros(3, dtype=torch.float64)
    for _, (a, b) in _pieces(*tensors):
        products += torch.stack((a @ b, a @ a, b @ b))
    dot, lengths = products[0].item(), math.sqrt(products[1].item()) * math.sqrt(products[2].item())
    cosine = dot / lengths if lengths else 1.0
    if abs(cosine) > _PARALLEL:
        linear(tensors, shares, out)
        return
    angle = math.acos(cosine)
    linear(tensors, [math.sin(share * angle) / math.sin(angle) for share in shares], out)


def ties(
    tensors: Sequence[Tensor],
    base: Tensor,
    shares: Sequence[float],
    thresholds: Sequence[float],
    scale: float,
    out: Tensor,
) -> None:
    """Trim, elect a sign, mean of those that have it (TIES, Yadav et al., 2023, section 4).

    With τᵢ = θᵢ - base, of which what is smaller than a threshold becomes 0, and γ = sgn(Σ wᵢ τᵢ):
    base + scale · Σ wᵢ τᵢ / Σ wᵢ over those models whose sgn(τᵢ) is γ.

    Args:
        tensors: One of each model, of any shape and floating type.
        base: What all of them were trained from.
        shares: Their weights; the paper's are equal.
        thresholds: Of each model, see [`threshold`].
        scale: λ of the paper.
        out: Of the same shape, takes the result.
    """
    least = torch.tensor(thresholds, dtype=torch.float64)[:, None]
    weights = torch.tensor(shares, dtype=torch.float64)[:, None]
    for place, (*parts, start) in _pieces(*tensors, base):
        deltas = torch.stack([part - start for part in parts])
        deltas[deltas.float().abs() < least] = 0.0
        sign = (weights * deltas).sum(0).sign()
        agreeing = weights * ((deltas.sign() == sign) & (sign != 0))
        total = agreeing.sum(0)
        mean = (agreeing * deltas).sum(0) / total.where(total > 0, 1.0)
        out.view(-1)[place] = start + scale * mean


class Magnitudes:
    """Finds, exactly and without holding them, how large the numbers are that a task vector keeps.

    A float32's bits order as its magnitude does. The first pass counts their upper halves, the second the lower halves
    of those in the bin that holds the number in question.
    """

    def __init__(self, density: float) -> None:
        """
        Args:
            density: Share of the numbers to keep, the paper's k as a fraction.
        """
        self.density = density
        self._upper = torch.zeros(2**15, dtype=torch.int64)
        self._lower = torch.zeros(2**16, dtype=torch.int64)
        self._bin: int | None = None
        self._rank = 0

    def count(self, tensor: Tensor, base: Tensor) -> None:
        """Takes one weight in; called for all of them once, and after [`halfway`] once more.

        A weight that training left as it was is not counted: it is no part of what was trained.
        """
        upper, trained = torch.zeros_like(self._upper), False
        for _, (part, start) in _pieces(tensor, base):
            bits = (part - start).float().abs().view(torch.int32)
            trained = trained or bool(bits.any())
            if self._bin is None:
                upper += torch.bincount(bits >> 16, minlength=2**15)
            else:
                self._lower += torch.bincount(bits[bits >> 16 == self._bin] & 0xFFFF, minlength=2**16)
        if trained:
            self._upper += upper

    def halfway(self) -> None:
        """Ends the first pass."""
        kept = max(1, round(self.density * int(self._upper.sum())))
        self._bin, above = _place(self._upper, kept)
        self._rank = kept - above

    def threshold(self) -> float:
        """The magnitude of the least number to keep; 0 where nothing was trained. Numbers equal to it are kept too."""
        if self._bin is None or not self._lower.sum():
            return 0.0
        low, _ = _place(self._lower, self._rank)
        return torch.tensor(self._bin << 16 | low, dtype=torch.int32).view(torch.float32).item()


def _place(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin of the `rank`-th largest number, and how many numbers lie in the bins above it."""
    from_above = counts.flip(0).cumsum(0)
    place = int((from_above < rank).sum())
    above = int(from_above[place - 1]) if place else 0
    return max(0, len(counts) - 1 - place), above


def _pieces(*tensors: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """Where each piece lies in the flat tensor, and that of every tensor."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel(), _PIECE):
        place = slice(start, start + _PIECE)
        yield place, [tensor[place].double() for tensor in flat]
