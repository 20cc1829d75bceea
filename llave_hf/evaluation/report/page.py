"""`report.html`: one file with tables, histograms and the misses, that opens anywhere and asks nothing of the network.

Texts and paths of the data are untrusted: the template escapes all of them, and the page's own policy lets no script
run but the one it was written with.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from llave_hf.data.thumbnails import PICTURES_AN_INPUT, SIDE, Thumbnails
from llave_hf.evaluation.benchmark.inputs import DistinctInputs
from llave_hf.evaluation.results import BenchmarkResults, TaskResult
from llave_hf.runtime.pages import page_environment

from .charts import HIGH, WIDE, common_axis, histogram
from .miss_views import subset_misses
from .order import GROUP_LABELS, count, findings, meta_tasks_of, ordered_groups, ordered_tasks, provenance
from .published_numbers import published_numbers
from .training_weights import TrainingWeights

PAGE_FILE = "report.html"
PICTURE_BYTES = 16 << 20  # of all pictures of a page


@dataclass(frozen=True)
class PageOptions:
    """What the page shows of the misses, and what it says of its origin.

    Attributes:
        misses: of each subset, at most.
        pictures: whether to copy pictures into the page.
        command: that made it, where it is known.
        weights: what negatives weighed in training; None: what the model's folder records.
    """

    misses: int = 20
    pictures: bool = True
    command: str | None = None
    weights: TrainingWeights | None = None


DEFAULTS = PageOptions()


def render_page(results: BenchmarkResults, inputs: DistinctInputs, options: PageOptions = DEFAULTS) -> str:
    """The page as text; the same for the same evaluation, command and pictures."""
    content = results.to_dict()
    weights = options.weights or TrainingWeights()
    thumbnails = Thumbnails(PICTURE_BYTES if options.pictures else 0)
    by_name = {result.task.name: result for result in results.tasks}
    ordered = [by_name[name] for name, _ in ordered_tasks(content)]
    missed = subset_misses(ordered, inputs, options.misses, thumbnails, weights)
    environment = page_environment("llave_hf.evaluation.report")
    script = environment.get_template("report_script.js.jinja").render()
    environment.filters["count"] = count
    return environment.get_template("report.html.jinja").render(
        results=content,
        means=_means(content),
        title=_title(content["model"]),
        meta_tasks=_meta_tasks(content),
        published=published_numbers(content["benchmark"]),
        histograms=_histograms(ordered),
        chart={"width": WIDE, "height": HIGH},
        missed=missed,
        options=options,
        weights=weights,
        findings=findings(content),
        provenance=provenance(content),
        pictures={
            "used": thumbnails.used,
            "limit": PICTURE_BYTES,
            "left_out": thumbnails.left_out,
            "side": SIDE,
            "most": PICTURES_AN_INPUT,
        },
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _title(model: str) -> str:
    """The name of a folder that is given with its whole path; the path stands under provenance."""
    return PurePath(model).name if PurePath(model).is_absolute() else model


def _means(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    published = published_numbers(content["benchmark"])
    rows = []
    for group in ordered_groups(content):
        subsets = content["group_sizes"][group]
        rows.append(
            {
                "label": GROUP_LABELS.get(group, group),
                "overall": group == "overall",
                "count": subsets,
                "score": content["means"][group],
                "ci95": content["means_ci95"][group],
                "published": [published.mean(model, group, subsets) for model in published.means],
            }
        )
    return rows


def _meta_tasks(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The subsets by meta-task, each with its score, that of its metric; `metric` where all have the same."""
    published = published_numbers(content["benchmark"])
    tasks = [
        {**task, "name": name, "score": task[task["metric"]], "published": published.of_subset(name)}
        for name, task in ordered_tasks(content)
    ]
    groups = []
    for meta in meta_tasks_of(content):
        inside = [task for task in tasks if task["meta_task"] == meta]
        metrics = {task["metric"] for task in inside}
        metric = metrics.pop() if len(metrics) == 1 else None
        groups.append({"label": GROUP_LABELS.get(meta, meta), "tasks": inside, "metric": metric})
    return groups


def _histograms(results: Sequence[TaskResult]) -> dict[str, Any]:
    axis = common_axis([result.similarities for result in results])
    panels = [
        {
            "name": result.task.name,
            "numbers": result.similarities.to_dict(),
            "paths": histogram(result.similarities, axis),
        }
        for result in results
    ]
    return {"panels": panels, "ticks": axis.ticks()}
