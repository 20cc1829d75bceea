"""Plots of a training run."""

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
