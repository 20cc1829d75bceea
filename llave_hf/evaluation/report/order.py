"""The order in which reports show things, and the words of findings: the same in Markdown, plot and page.

All functions take the content of `results.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llave_hf.evaluation.benchmark.collection import PROBLEMS

Results = Mapping[str, Any]

META_TASKS = ("classification", "vqa", "retrieval", "grounding", "video")  # shown in this order, others after them
GROUP_LABELS = {"vqa": "VQA", "in": "in-distribution", "out": "out-of-distribution", "overall": "overall"}


def meta_tasks_of(results: Results) -> list[str]:
    """The meta-tasks that the results have, MMEB's first."""
    present = {task["meta_task"] for task in results["tasks"].values()}
    return [name for name in META_TASKS if name in present] + sorted(present.difference(META_TASKS))


def ordered_tasks(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    """Subsets by meta-task, in- before out-of-distribution, then by name: the same from a file as from memory."""
    meta_tasks = meta_tasks_of(results)
    return sorted(
        results["tasks"].items(),
        key=lambda item: (meta_tasks.index(item[1]["meta_task"]), item[1]["distribution"], item[0]),
    )


def ordered_groups(results: Results) -> list[str]:
    """The means: meta-tasks, groups that a benchmark has beside these, distributions, all."""
    first, last = meta_tasks_of(results), ["in", "out", "overall"]
    between = sorted(set(results["means"]).difference(first, last))
    return [name for name in (*first, *between, *last) if name in results["means"]]


def count(number: float) -> str:
    """A number of things, or a mean of such numbers."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"


def findings(results: Results) -> list[str]:
    """What a reader should know about single subsets, a sentence each: flaws of the data, and ties."""
    return [*_data_findings(results), *_ties(results)]


def provenance(results: Results) -> list[tuple[str, str]]:
    """What decides the numbers: names and values."""
    prompt = results["prompt"]
    said = {None: "not known", "": "none; inputs are encoded as the benchmark writes them"}.get(prompt, repr(prompt))
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    return [
        ("Model", results["model"]),
        ("Model revision", results["model_revision"] or "not known"),
        ("Dtype of the weights", results["dtype"] or "not known"),
        ("Prompt before every input", said),
        ("Benchmark", results["benchmark"]),
        ("Data revision", results["revision"] or "not known"),
        ("Versions", versions),
    ]


def _data_findings(results: Results) -> Iterator[str]:
    for problem, meaning in PROBLEMS.items():
        where = []
        for name, task in ordered_tasks(results):
            if number := task["findings"].get(problem):
                where.append(f"{name} ({_rows(number, task['finding_rows'][problem])})")
        if where:
            yield f"{meaning[0].upper()}{meaning[1:]}: {', '.join(where)}."
    repeated = [f"{name} ({task['duplicates']:,})" for name, task in ordered_tasks(results) if task["duplicates"]]
    if repeated:
        yield f"Candidates repeated within a query's list, counted once: {', '.join(repeated)}."


def _rows(number: int, first: list[int]) -> str:
    if number == 1:
        return f"row {first[0]}"
    return f"{number:,} rows: {', '.join(map(str, first))}{', …' if number > len(first) else ''}"


def _ties(results: Results) -> Iterator[str]:
    tied = []
    for name, task in ordered_tasks(results):
        low, high = task["precision_at_1_bounds"]
        if low < high:
            tied.append(f"{name} ({100 * low:.1f} to {100 * high:.1f})")
    if tied:
        yield f"Ties, scored by expectation; precision@1 in % if all were lost or won: {', '.join(tied)}."
