"""A plot of a group: the scores of its variants, and their differences to the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llave_hf.hub.card.plots import EASY, HARD, POSITIVE

from .statistics import Estimate
from .summary import GroupSummary, VariantSummary

SCORE = "overall"


def plot_group(entry: GroupSummary, path: Path) -> None:
    """A row for each variant, the file's first on top: its seeds, their mean and its 95 % interval.

    Args:
        entry: With at least one finished run.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    rows = list(reversed(entry.variants))
    figure = Figure(figsize=(8, 1.3 + 0.42 * len(rows)), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    reference = {o.run.seed: o.scores[SCORE] for of in rows for o in of.outcomes if _is_reference(entry, of)}
    for place, of in enumerate(rows):
        colour = POSITIVE if _is_reference(entry, of) else HARD
        seeds = [outcome.scores[SCORE] for outcome in of.outcomes]
        _row(left, place, seeds, of.scores[SCORE], colour)
        if SCORE in of.differences:
            paired = [o.scores[SCORE] - reference[o.run.seed] for o in of.outcomes if o.run.seed in reference]
            _row(right, place, paired, of.differences[SCORE], colour, signed=True)
    _dress(left, f"{', '.join(sorted(entry.outcomes[0].metrics))} overall, %")
    _dress(right, f"difference to {entry.group.reference}, paired by seed")
    right.axvline(0, color=POSITIVE, linewidth=0.9, zorder=0)
    left.set_yticks(range(len(rows)), [of.variant.name for of in rows])
    left.set_ylim(-0.6, len(rows) - 0.3)
    figure.suptitle(f"{entry.group.name}: seeds, mean and 95 % interval", x=0.01, ha="left", fontsize=11)
    figure.savefig(path, metadata={"Software": None})


def _is_reference(entry: GroupSummary, of: VariantSummary) -> bool:
    return of.variant.name == entry.group.reference


def _row(axes: Any, place: int, seeds: Sequence[float], value: Estimate, colour: str, signed: bool = False) -> None:
    """Pale points for seeds, a point with its interval for the mean, and the mean in words above it."""
    axes.scatter(
        [100 * seed for seed in seeds], [place] * len(seeds), s=16, color=EASY, alpha=0.7, linewidths=0, zorder=3
    )
    margin = 0.0 if value.margin is None else 100 * value.margin
    axes.errorbar(100 * value.mean, place, xerr=margin, fmt="o", markersize=5, color=colour, linewidth=1.6, zorder=2)
    text = f"{100 * value.mean:{'+' if signed else ''}.1f}"
    axes.annotate(
        text, (100 * value.mean, place), (0, 6), textcoords="offset points", color=colour, fontsize=8, ha="center"
    )


def _dress(axes: Any, label: str) -> None:
    axes.set_xlabel(label, fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
