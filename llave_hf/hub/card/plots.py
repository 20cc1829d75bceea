"""Draws the plots of a model card: loss, similarities of positives and negatives, how they part in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_training(log_history: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Loss and learning rate over the steps as a PNG; False, and no file, where the log holds no loss.

    Args:
        log_history: Of `trainer_state.json`.
        path: Where the PNG goes; its folder is made.
    """
    logged = [entry for entry in log_history if "loss" in entry and "learning_rate" in entry]
    if not logged:
        return False
    from matplotlib.figure import Figure

    steps = [entry["step"] for entry in logged]
    figure = Figure(figsize=(7, 3), dpi=150, layout="constrained")
    left = figure.add_subplot()
    left.plot(steps, [entry["loss"] for entry in logged], color="#1f5f99", linewidth=1.8)
    left.set(xlabel="step", ylabel="loss")
    left.yaxis.label.set_color("#1f5f99")
    left.spines[["top"]].set_visible(False)
    left.grid(axis="y", alpha=0.25)
    right = left.twinx()
    right.plot(steps, [entry["learning_rate"] for entry in logged], color="#b35c00", linewidth=1.2, linestyle="--")
    right.set(ylabel="learning rate")
    right.yaxis.label.set_color("#b35c00")
    right.spines[["top"]].set_visible(False)
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return True


POSITIVE, HARD, EASY = "#1f5f99", "#b35c00", "#8a8a8a"
Panel = tuple[Sequence[Sequence[int]], Mapping[str, Any]]


def plot_similarities(panels: Mapping[str, Panel], path: Path) -> None:
    """Histograms of the cosines of positives, hardest and easiest negatives, a panel a stretch of training.

    Args:
        panels: By title, counts in even bins over [-1, 1] of positives, hard and easy negatives, and the stretch's
            numbers (`overlap`, `auc`).
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 2.0 * len(panels)), dpi=150, layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for ax, (title, (counts, numbers)) in zip(axes, panels.items(), strict=True):
        told = "" if numbers["overlap"] is None else f": overlap {numbers['overlap']:.2f}, AUC {numbers['auc']:.2f}"
        ax.set_title(title + told, loc="left", fontsize=10)
        for values, colour, label, fill in zip(
            counts,
            (POSITIVE, HARD, EASY),
            ("positives", "hardest 5 negatives", "easiest 5 negatives"),
            (True, True, False),
            strict=True,
        ):
            _density(ax, values, colour, label, fill)
        ax.set_yticks([])
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel("cosine of query and document")
    axes[-1].set_xlim(*_shown_range([counts for counts, _ in panels.values()]))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Software": None})


def plot_separation(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Gaps between positives and negatives, and their overlap, over the steps.

    Args:
        history: Entries with `step`, `gap_hard`, `gap_easy`, `overlap` and `auc`.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    _curves(
        upper, history, {"gap_easy": ("to the easiest 5", EASY), "gap_hard": ("to the hardest 5 negatives", POSITIVE)}
    )
    upper.set_ylabel("gap of mean cosines")
    upper.axhline(0, color="#333333", linewidth=0.6)
    _curves(
        lower, history, {"auc": ("AUC, positives over hardest", POSITIVE), "overlap": ("overlap with hardest", HARD)}
    )
    lower.set(xlabel="step", ylim=(0, 1.02))
    figure.savefig(path, metadata={"Software": None})


def plot_groups(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What a query's own mined group has of the gradient, and how much of it is masked, over the steps.

    Args:
        history: Entries with `step`, `group_share`, `group_gradient_share` and `masked_share` of both kinds.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    shares = {"group_gradient_share": ("of the gradient", POSITIVE), "group_share": ("of the negatives", EASY)}
    _curves(upper, history, shares)
    upper.set(ylabel="share of the own group", ylim=(0, 1.02))
    masked = {"masked_share_own_group": ("own group", HARD), "masked_share_other_groups": ("other groups", EASY)}
    _curves(lower, history, masked)
    lower.set(xlabel="step", ylabel="share that is masked", ylim=(0, 1.02))
    figure.savefig(path, metadata={"Software": None})


def plot_task_similarities(tasks: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Mean cosines of positives, hardest and easiest negatives by task, the smallest gap on top.

    Args:
        tasks: By name, `positive`, `hard`, `easy` and `gap_hard`; tasks without negatives are left out.
        path: Where the PNG goes.
    """
    from matplotlib.figure import Figure

    drawn = sorted((task["gap_hard"], name) for name, task in tasks.items() if task["gap_hard"] is not None)[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.26 * len(drawn)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, (_, name) in enumerate(drawn):
        axes.plot([tasks[name]["hard"], tasks[name]["positive"]], [place, place], color="#cccccc", zorder=1)
    for role, colour, label in (
        ("easy", EASY, "easiest 5 negatives"),
        ("hard", HARD, "hardest 5 negatives"),
        ("positive", POSITIVE, "positives"),
    ):
        means = [tasks[name][role] for _, name in drawn]
        axes.scatter(means, range(len(drawn)), color=colour, label=label, s=26, zorder=2)
    axes.set_yticks(range(len(drawn)), [name for _, name in drawn])
    axes.set_ylim(-0.6, len(drawn) - 0.4)
    axes.set_xlabel("mean cosine of query and document")
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Software": None})


def _density(axes: Any, counts: Sequence[int], colour: str, label: str, fill: bool) -> None:
    """Joins bins until they are wide enough to be read (0.02) and draws them as a step curve of area 1."""
    joined = _joined(counts)
    total, width = sum(joined), 2 / len(joined)
    heights = [count / total / width if total else 0.0 for count in joined]
    edges = [-1 + width * number for number in range(len(joined) + 1)]
    if fill:
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3)
    axes.stairs(heights, edges, color=colour, linewidth=1.4, label=label)


def _joined(counts: Sequence[int], bins: int = 100) -> list[int]:
    size = max(1, len(counts) // bins)
    return [sum(counts[start : start + size]) for start in range(0, len(counts), size)]


def _shown_range(panels: Sequence[Sequence[Sequence[int]]]) -> tuple[float, float]:
    """From the lowest to the highest cosine of all panels, with a margin."""
    joined = [_joined(counts) for panel in panels for counts in panel]
    bins = len(joined[0])
    used = [number for number in range(bins) if any(counts[number] for counts in joined)]
    width = 2 / bins
    return max(-1.0, -1 + width * (used[0] - 2)), min(1.0, -1 + width * (used[-1] + 3))


def _curves(axes: Any, history: Sequence[Mapping[str, Any]], named: Mapping[str, tuple[str, str]]) -> None:
    """A line for each name, labelled at its end instead of in a legend: the highest above it, the lowest below."""
    lines = {
        name: points
        for name in named
        if (points := [(one["step"], one[name]) for one in history if one[name] is not None])
    }
    order = sorted(lines, key=lambda name: lines[name][-1][1])
    beside = {order[0]: "top", order[-1]: "bottom"} if len(order) > 1 else {}
    for name, points in lines.items():
        label, colour = named[name]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6)
        va = beside.get(name, "center")
        axes.annotate(f" {label}", points[-1], color=colour, fontsize=9, va=va, annotation_clip=False)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
