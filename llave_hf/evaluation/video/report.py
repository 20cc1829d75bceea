"""Shows text-video retrieval: a table, and R@1 against frames and visual tokens as a curve and as CSV.

All functions take the content of `results.json`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from llave_hf.evaluation.report.files import write_json
from llave_hf.evaluation.results import PER_QUERY_FILE
from llave_hf.evaluation.scoring.metrics import FloatArray

Results = Mapping[str, Any]

DIRECTIONS = {"text_to_video": ("text to video", "#4477aa", "o"), "video_to_text": ("video to text", "#cc7744", "s")}
COLUMNS = (
    *("dataset", "protocol", "direction", "frames", "mean_frames", "visual_tokens"),
    *("recall_at_1", "recall_at_1_low", "recall_at_1_high", "recall_at_5", "recall_at_10"),
    *("median_rank", "mean_rank", "n", "candidates"),
)


def write_video_report(results: Results, per_query: Mapping[str, FloatArray], folder: Path) -> None:
    """Write `results.json`, `results.md`, `curve.csv`, `curve.png` and `per_query.safetensors` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(results, folder / "results.json")
    (folder / "results.md").write_text(markdown_video_report(results), encoding="utf-8")
    write_curve(results, folder / "curve.csv")
    plot_curve(results, folder / "curve.png")
    save_file(dict(per_query), folder / PER_QUERY_FILE)


def markdown_video_report(results: Results) -> str:
    """The table, in percent, and what the numbers are of."""
    protocol, dataset = results["protocol"], results["dataset"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items() if number)
    lines = [
        f"# {dataset}, protocol {protocol['name']}: {results['model']}",
        "",
        "| direction | frames | visual tokens | R@1, % | 95 % interval | R@5, % | R@10, % | median rank | mean rank "
        "| queries | candidates | chance, % |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
        *map(_row, results["tasks"].values()),
        "",
        *_notes(results),
        f"Protocol {protocol['name']}: {protocol['description']}; its own number of frames is {protocol['frames']}. "
        "Numbers of another protocol cannot stand beside these.",
        f'Prompts: "{protocol["query_prompt"]}" before a caption, "{protocol["video_prompt"]}" after a video.',
        "Frames and visual tokens: means over the videos. Video to text: a video's captions stand at the place of the "
        "best of them. Ties count by expectation; intervals are from a bootstrap over queries.",
        "",
        f"Model revision: {results['model_revision']}, {results['dtype']}. Data revision: {results['revision']}. "
        f"Versions: {versions}.",
        "",
    ]
    return "\n".join(lines)


def write_curve(results: Results, path: Path) -> None:
    """One row a direction and number of frames."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for task in results["tasks"].values():
            low, high = task["recall_at_1_ci95"]
            named = {"dataset": results["dataset"], "protocol": results["protocol"]["name"]}
            writer.writerow({**task, **named, "recall_at_1_low": low, "recall_at_1_high": high})


def plot_curve(results: Results, path: Path) -> None:
    """Draw R@1 against frames and, where they are known, against visual tokens; with 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(results["tasks"].values())
    axes_of = {"mean_frames": "frames a video"}
    if tasks[0]["visual_tokens"] is not None:
        axes_of["visual_tokens"] = "visual tokens a video"
    figure = Figure(figsize=(1.5 + 3.8 * len(axes_of), 3.8), layout="constrained")
    panels = figure.subplots(1, len(axes_of), sharey=True, squeeze=False)[0]
    for panel, (field, label) in zip(panels, axes_of.items(), strict=True):
        _draw(panel, tasks, field)
        panel.set_xlabel(label)
    panels[0].set_ylabel("R@1, %")
    panels[0].set_ylim(bottom=0)
    title = f"{results['dataset']}, protocol {results['protocol']['name']}: {results['model']}"
    figure.suptitle(title if len(title) <= 80 else f"{title[:79]}…", x=0.01, ha="left", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))


def _draw(panel: Any, tasks: Sequence[Mapping[str, Any]], field: str) -> None:
    places = sorted({task[field] for task in tasks})
    for number, (direction, (label, colour, marker)) in enumerate(DIRECTIONS.items()):
        points = [task for task in tasks if task["direction"] == direction]
        scores = [100 * task["recall_at_1"] for task in points]
        bounds = [[100 * bound for bound in task["recall_at_1_ci95"]] for task in points]
        errors = [[max(s - b[0], 0) for s, b in zip(scores, bounds, strict=True)]]
        errors += [[max(b[1] - s, 0) for s, b in zip(scores, bounds, strict=True)]]
        aside = 2 ** (0.04 * (number - 0.5))  # so that the two intervals do not lie on each other
        at = [task[field] * aside for task in points]
        line = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.4}
        panel.errorbar(at, scores, yerr=errors, label=label, elinewidth=0.9, capsize=2, **line)
    chance = 100 * tasks[0]["chance"]
    panel.axhline(chance, color="#666666", linewidth=0.9, linestyle="--", label="chance")
    panel.set_xscale("log", base=2)
    panel.set_xlim(places[0] / 1.25, places[-1] * 1.25)
    panel.minorticks_off()
    panel.set_xticks(places, [f"{place:,.3g}" if place < 100 else f"{place:,.0f}" for place in places])
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _row(task: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in task["recall_at_1_ci95"])
    frames, tokens = task["frames"], task["visual_tokens"]
    if task["mean_frames"] != frames:
        frames = f"{frames} ({task['mean_frames']:.1f})"
    return (
        f"| {DIRECTIONS[task['direction']][0]} | {frames} | {'' if tokens is None else f'{tokens:,.0f}'} | "
        f"{100 * task['recall_at_1']:.1f} | {low:.1f} to {high:.1f} | {100 * task['recall_at_5']:.1f} | "
        f"{100 * task['recall_at_10']:.1f} | {task['median_rank']:g} | {task['mean_rank']:.1f} | {task['n']:,} | "
        f"{task['candidates']:,} | {100 * task['chance']:.2f} |"
    )


def _notes(results: Results) -> list[str]:
    """That this is not the whole test, where it is not."""
    if results["videos"] == results["videos_of_the_test"]:
        return []
    return [
        f"**Not the test of {results['dataset']}**: {results['videos']:,} videos, where it has "
        f"{results['videos_of_the_test']:,}. Its published numbers cannot stand beside these.",
        "",
    ]
