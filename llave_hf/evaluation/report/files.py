"""Writes the files of an evaluation's output folder (but for its page), and draws its bar chart.

All functions take the content of `results.json`, so that a saved evaluation can be shown again or compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .markdown import markdown_report
from .order import Results, meta_tasks_of, ordered_tasks

BAR_COLOURS = ("#4477aa", "#66aa77", "#cc7744", "#aa5588", "#999944", "#557799")
BEFORE_COLOUR = "#c8ccd2"


def write_report(results: Results, output_dir: Path, before: Results | None = None) -> None:
    """Write `results.json`, `results.md` and `results.png` into a folder, which is made where it is missing."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(results, output_dir / "results.json")
    (output_dir / "results.md").write_text(markdown_report(results), encoding="utf-8")
    plot_scores(results, output_dir / "results.png", before=before)


def write_json(results: Results, path: Path) -> None:
    """Write sorted, indented JSON: two evaluations of the same thing give the same bytes."""
    path.write_text(json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def plot_scores(results: Results, path: Path, before: Results | None = None) -> None:
    """Draw one bar a subset with its 95 % interval, and a mark at chance.

    Args:
        before: an earlier evaluation (the untrained model), drawn as a paler bar where it has the same subset.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(reversed(ordered_tasks(results)))  # the first subset on top
    colours = _colours(results)
    figure = Figure(figsize=(8, 1.6 + (0.42 if before else 0.3) * len(tasks)), layout="constrained")
    axes = figure.add_subplot()
    thickness = 0.38 if before else 0.7
    for position, (name, task) in enumerate(tasks):
        _bar(axes, position + (thickness / 2 if before else 0), thickness, task, colours[task["meta_task"]])
        if before and name in before["tasks"]:
            _bar(axes, position - thickness / 2, thickness, before["tasks"][name], BEFORE_COLOUR)
        chance = 100 * task["chance"]
        axes.plot([chance, chance], [position - 0.45, position + 0.45], color="black", linewidth=1.4, zorder=3)
    top = max(max(task["ci95"][1], task["chance"]) for _, task in tasks)
    axes.set_xlim(0, min(100, 10 * math.ceil(10.5 * top)))
    axes.set_ylim(-0.6, len(tasks) - 0.4)
    axes.set_yticks(range(len(tasks)), [name for name, _ in tasks])
    axes.set_xlabel(f"{', '.join(sorted({task['metric'] for _, task in tasks}))}, %")
    axes.set_title(_shortened(f"{results['benchmark']}: {results['model']}"), loc="left", fontsize=11)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(handles=_legend(colours, before), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))


def _bar(axes: Any, position: float, thickness: float, task: Mapping[str, Any], colour: str) -> None:
    score, (low, high) = 100 * task[task["metric"]], (100 * bound for bound in task["ci95"])
    axes.barh(position, score, thickness, color=colour, zorder=2)
    errors = [[max(score - low, 0.0)], [max(high - score, 0.0)]]
    axes.errorbar(score, position, xerr=errors, color="#333333", linewidth=0.9, capsize=2, zorder=4)


def _legend(colours: Mapping[str, str], before: Results | None) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=colour, label=name) for name, colour in colours.items()]
    if before:
        handles.append(Patch(color=BEFORE_COLOUR, label=f"before: {_shortened(before['model'], 30)}"))
    interval = Line2D([], [], color="#333333", linewidth=0.9, label="95 % interval")
    chance = Line2D([], [], color="black", linewidth=0, marker="|", markersize=10, label="chance")
    return [*handles, interval, chance]


def _colours(results: Results) -> dict[str, str]:
    """A colour for each meta-task."""
    return {name: BAR_COLOURS[number % len(BAR_COLOURS)] for number, name in enumerate(meta_tasks_of(results))}


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"
