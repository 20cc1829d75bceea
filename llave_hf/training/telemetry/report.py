"""Numbers, plots and telemetry.json from the counts that telemetry keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llave_hf.evaluation.scoring import histograms
from llave_hf.hub.card.plots import plot_groups, plot_separation, plot_similarities, plot_task_similarities

from .counts import ROLES, PairCounts
from .groups import KINDS, GroupCounts
from .integers import top_share

REPORT_BIN = 10  # fine bins in one of telemetry.json: 0.02 wide


def summary(counts: PairCounts, row: int = -1) -> dict[str, float | None]:
    """The numbers of a task, or of all together; None where there is nothing to tell it from.

    Returns:
        queries: Sampled queries.
        positive, hard, easy: Mean cosines.
        gap_hard, gap_easy: Positive less hard, and less easy, as in the paper's Table 1.
        overlap: Of positives and hard negatives, 0 to 1, see [`histograms.overlap`].
        auc: Probability that a positive lies above a hard negative (of any query).
        negatives: Mean number of negatives of a query that count.
        effective_negatives: Mean over queries of (Σw)²/Σw², w = e^(αs): what LLaVE's weights leave.
        gradient_negatives: The same with w = e^(s/τ + αs): what shares the gradient.
        gradient_top1: Share of the gradient in the top 1 % of the negatives; only of all together.
        outscored: Share of queries with a negative more than 0.1 above their positive.
        outscoring: Share of negatives that are so.
        random_cosine: Mean cosine of different queries, or of different documents: the larger of the two.
        masked_share: Share of pairs that are no negatives although they are no positives.
        hardness_strength: Mean α.
        With groups, what [`by_group`] gives.
    """
    positives, hard, easy = counts.cosines[row]
    means = {role: histograms.mean(histogram) for role, histogram in zip(ROLES, (positives, hard, easy), strict=True)}

    def ratio(above: str, below: str) -> float | None:
        divisor = counts.total(below, row)
        return counts.total(above, row) / divisor if divisor else None

    sides = [ratio(f"{side}_cosine", f"{side}_pairs") for side in ("query", "document")]
    everything = row in (-1, counts.tasks)
    return {
        "queries": counts.total("queries", row),
        **means,
        "gap_hard": _less(means["positive"], means["hard"]),
        "gap_easy": _less(means["positive"], means["easy"]),
        "overlap": histograms.overlap(positives, hard),
        "auc": histograms.auc(positives, hard),
        "negatives": ratio("negatives", "queries"),
        "effective_negatives": ratio("hardness_negatives", "contrasted"),
        "gradient_negatives": ratio("gradient_negatives", "contrasted"),
        "gradient_top1": top_share(counts.shares) if everything else None,
        "outscored": ratio("outscored", "contrasted"),
        "outscoring": ratio("outscoring", "negatives"),
        "random_cosine": max((side for side in sides if side is not None), default=None),
        "masked_share": ratio("masked_share", "queries"),
        "hardness_strength": ratio("hardness_strength", "queries"),
        **({} if counts.groups is None else by_group(counts.groups, counts.total("queries", row), row)),
    }


def by_group(counts: GroupCounts, queries: float, row: int = -1) -> dict[str, float | None]:
    """How negatives of a query's own mined group differ from those of other groups in the batch.

    Args:
        counts: Of the groups.
        queries: How many were sampled.
        row: A task, or all together.

    Returns:
        group_share: Share of the in-batch negatives that are of the query's own group: its share of the gradient if
            all of them were alike.
        group_gradient_share: Share of the negatives' gradient that is theirs.
        And of each of [`KINDS`], with its name behind: `negatives`, `effective_negatives`, `gradient_top1`,
        `outscored` and `masked_share` as [`summary`] has them, of these negatives alone. A document of another row is
        masked if it is no negative of the query.
    """

    def ratio(above: str, below: float) -> float | None:
        return counts.total(above, row) / below if below else None

    everything = row in (-1, counts.tasks)
    found: dict[str, float | None] = {
        "group_share": ratio("negatives_own_group", sum(counts.total(f"negatives_{kind}", row) for kind in KINDS)),
        "group_gradient_share": ratio("gradient_own_group", counts.total("gradient", row)),
    }
    for number, kind in enumerate(KINDS):
        pairs, contrasted = (counts.total(f"{name}_{kind}", row) for name in ("pairs", "contrasted"))
        negatives = ratio(f"negatives_{kind}", pairs)
        found |= {
            f"negatives_{kind}": ratio(f"negatives_{kind}", queries),
            f"effective_negatives_{kind}": ratio(f"hardness_negatives_{kind}", contrasted),
            f"gradient_top1_{kind}": top_share(counts.shares[number]) if everything else None,
            f"outscored_{kind}": ratio(f"outscored_{kind}", contrasted),
            f"masked_share_{kind}": None if negatives is None else 1 - negatives,
        }
    return found


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def write_report(
    folder: str | os.PathLike[str],
    tasks: Sequence[str],
    first: PairCounts,
    latest: PairCounts,
    history: Sequence[Mapping[str, Any]],
    told: Mapping[str, str],
) -> None:
    """Writes telemetry.json and telemetry_{similarities,steps,tasks,groups}.png.

    The second and the fourth need two logs, the third two tasks, the fourth groups.

    Args:
        folder: Is made if need be.
        tasks: Names of the tasks.
        first, latest: The first and the latest stretch of each task and of all together.
        history, told: Of the telemetry.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    seen = {task: row for row, task in enumerate(tasks) if latest.total("queries", row)}
    by_task = {task: summary(latest, row) for task, row in seen.items()}
    report = {
        "first": _stretch(first, len(tasks)),
        "latest": _stretch(latest, len(tasks)),
        "tasks": by_task,
        "warnings": dict(told),
        "history": list(history),
    }
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    (root / "telemetry.json").write_text(text + "\n", encoding="utf-8")
    stretches = {f"at the end, step {history[-1]['step']:,}": latest}
    if len(history) > 1:
        stretches = {f"at the start, step {history[0]['step']:,}": first, **stretches}
    panels = {name: (counts.cosines[-1].tolist(), summary(counts)) for name, counts in stretches.items()}
    plot_similarities(panels, root / "telemetry_similarities.png")
    if len(history) > 1:
        plot_separation(history, root / "telemetry_steps.png")
        if latest.groups is not None:
            plot_groups(history, root / "telemetry_groups.png")
    if len(seen) > 1:
        plot_task_similarities(by_task, root / "telemetry_tasks.png")


def _stretch(counts: PairCounts, row: int) -> dict[str, Any]:
    """Its numbers and its histograms in bins of 0.02."""
    joined = {
        role: histograms.joined(counts.cosines[row, number], REPORT_BIN).tolist() for number, role in enumerate(ROLES)
    }
    edges = torch.linspace(-1, 1, histograms.BINS // REPORT_BIN + 1, dtype=torch.float64)
    return {
        **summary(counts, row),
        "histograms": {"edges": [round(edge, 2) for edge in edges.tolist()], **joined},
    }
