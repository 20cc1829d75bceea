"""The tables of an evaluation as Markdown, from the content of `results.json`; values in percent."""

from __future__ import annotations

from .order import GROUP_LABELS, Results, count, findings, ordered_groups, ordered_tasks, provenance
from .published_numbers import PublishedNumbers, published_numbers

OVERLAP = (
    "Overlap: of the cosines of answers and of each query's hardest negative; 0 apart, 1 alike. AUC: how often an "
    "answer has a higher cosine than a hardest negative; below 0.5 the answers lie on the wrong side."
)


def markdown_report(results: Results) -> str:
    """Means, subsets, published numbers where there are some, findings and provenance."""
    published = published_numbers(results["benchmark"])
    sections = [
        [f"# {results['benchmark']}: {results['model']}"],
        _means_table(results, published),
        _missing(results),
        _tasks_table(results),
        _published_table(results, published),
        ["## Findings", "", *(f"- {finding}" for finding in findings(results) or ["None: no flaws, no ties."])],
        ["## Provenance", "", *(f"- {name}: {value}" for name, value in provenance(results))],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _means_table(results: Results, published: PublishedNumbers) -> list[str]:
    models = list(published.means)
    lines = [_row(["mean over subsets", "subsets", "score, %", "95 % interval", *models])]
    lines.append("|---|---:|---:|---|" + "---:|" * len(models))
    for group in ordered_groups(results):
        subsets = results["group_sizes"][group]
        label = GROUP_LABELS.get(group, group)
        low, high = (100 * bound for bound in results["means_ci95"][group])
        lines.append(
            _row(
                [
                    f"**{label}**" if group == "overall" else label,
                    str(subsets),
                    f"{100 * results['means'][group]:.1f}",
                    f"{low:.1f} to {high:.1f}",
                    *(_shown(published.mean(model, group, subsets)) for model in models),
                ]
            )
        )
    return lines


def _missing(results: Results) -> list[str]:
    missing = results["missing"]
    total = len(results["tasks"]) + len(missing)
    told = f"Means are over {len(results['tasks'])} of {total} subsets. Not evaluated: {', '.join(missing)}."
    return [told] if missing else []


def _tasks_table(results: Results) -> list[str]:
    names = ["subset", "meta-task", "distribution", "metric", "score, %", "95 % interval", "chance, %", "queries"]
    lines = [_row([*names, "candidates", "overlap", "AUC"]), "|---|---|---|---|---:|---|---:|---:|---:|---:|---:|"]
    for name, task in ordered_tasks(results):
        low, high = (100 * bound for bound in task["ci95"])
        lines.append(
            _row(
                [
                    name,
                    task["meta_task"],
                    task["distribution"],
                    task["metric"],
                    f"{100 * task[task['metric']]:.1f}",
                    f"{low:.1f} to {high:.1f}",
                    f"{100 * task['chance']:.1f}",
                    f"{task['n']:,}",
                    count(task["candidates"]),
                    *(_decimal(task["similarities"][name]) for name in ("overlap", "auc")),
                ]
            )
        )
    return [*lines, "", OVERLAP]


def _published_table(results: Results, published: PublishedNumbers) -> list[str]:
    tasks = [(name, task) for name, task in ordered_tasks(results) if name in published.tasks]
    if not published.means:
        return []
    lines = ["## Published numbers", ""]
    if tasks:
        lines += [_row(["subset", "this model", *published.columns]), "|---|---:|" + "---:|" * len(published.columns)]
        for name, task in tasks:
            ours = f"{100 * task[task['metric']]:.1f}"
            lines.append(_row([name, ours, *map(_shown, published.of_subset(name))]))
        lines.append("")
    told = "Published means stand beside ours only where all subsets of the group were evaluated."
    return [*lines, f"As reported, not measured here: {'; '.join(published.sources)}. {told}"]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
