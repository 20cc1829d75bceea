"""Histograms of cosines as paths of an SVG, and the axis that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llave_hf.evaluation.scoring.histograms import BINS, WIDTH, joined
from llave_hf.evaluation.scoring.similarities import Similarities

WIDE, HIGH = 300.0, 96.0  # of a histogram, in units of its SVG
BINS_SHOWN = 50
MARGIN = 10  # fine bins at either side, at least
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """The cosines that all histograms of a page show.

    Attributes:
        first, last: fine bins, see `evaluation/scoring/histograms.py`; `last` is one past the end.
        size: fine bins in a bar.
    """

    first: int
    last: int
    size: int

    def x(self, cosine: float) -> float:
        """Where a cosine stands."""
        return WIDE * ((cosine + 1) / WIDTH - self.first) / (self.last - self.first)

    def ticks(self) -> list[tuple[float, str]]:
        """Round cosines, and what is written there."""
        low, high = -1 + self.first * WIDTH, min(1.0, -1 + self.last * WIDTH)
        step = _round_step((high - low) / TICKS)
        digits = max(1, -math.floor(math.log10(step) + 1e-9))
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        return [(self.x(n * step), f"{n * step:.{digits}f}") for n in numbers]


@dataclass(frozen=True)
class Histogram:
    """Outlines, closed along the axis: the `d` of an SVG's path."""

    positives: str
    hardest: str


def common_axis(subsets: Sequence[Similarities]) -> Axis:
    """From the lowest to the highest cosine of all subsets with a margin, in bars that can be seen."""
    total = sum((part.positives + part.hardest for part in subsets), torch.zeros(BINS, dtype=torch.int64))
    used = torch.nonzero(total).flatten()
    margin = max(MARGIN, (int(used[-1]) - int(used[0])) // 20)
    low, high = max(0, int(used[0]) - margin), min(BINS, int(used[-1]) + 1 + margin)
    size = max(1, math.ceil((high - low) / BINS_SHOWN))
    return Axis(size * (low // size), size * math.ceil(high / size), size)


def histogram(subset: Similarities, axis: Axis) -> Histogram:
    """Both groups as densities on one scale, the highest bar filling the height."""
    shown = slice(axis.first // axis.size, axis.last // axis.size)
    parts = [joined(counts, axis.size)[shown].double() for counts in (subset.positives, subset.hardest)]
    densities = [part / part.sum().clamp(min=1) for part in parts]
    top = max(float(density.max()) for density in densities)
    positives, hardest = (_outline((HIGH * density / top).tolist()) for density in densities)
    return Histogram(positives, hardest)


def _outline(heights: Sequence[float]) -> str:
    """Steps from the left end of the axis to the right; empty where there is nothing."""
    if not any(heights):
        return ""
    width = WIDE / len(heights)
    steps = [f"M0,{HIGH:.0f}"]
    for number, height in enumerate(heights):
        steps.append(f"V{HIGH - height:.1f}H{width * (number + 1):.1f}")
    return "".join([*steps, f"V{HIGH:.0f}Z"])


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
