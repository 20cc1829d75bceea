"""Writes what a sweep found: sweep.json, table.md and a plot for each group."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from llave_hf.evaluation.results import package_versions

from .decisions import LEVEL, Decision, decide
from .pictures import plot_group
from .plan import Sweep
from .running import duration
from .statistics import Estimate
from .summary import GroupSummary, VariantSummary, as_json, summarise

SMALLEST_P = 0.0001  # that is printed

TRAINING_COLUMNS: Mapping[str, Callable[[Mapping[str, float]], str]] = {
    "gap to hard negatives": lambda numbers: f"{numbers['gap_hard']:.3f}",
    "overlap with them": lambda numbers: f"{numbers['overlap']:.2f}",
    "effective negatives": lambda numbers: f"{numbers['effective_negatives']:.0f} of {numbers['negatives']:.0f}",
    "masked pairs": lambda numbers: f"{100 * numbers['masked_share']:.2f} %",
}


def write_report(sweep: Sweep) -> str:
    """Writes the report of the runs that are finished into the sweep's folder, and returns table.md's text."""
    groups = summarise(sweep)
    sweep.output.mkdir(parents=True, exist_ok=True)
    decisions = decide(sweep, groups)
    told = [_decision_json(of, family) for family, one in enumerate(decisions, 1) for of in one]
    numbers = as_json(sweep, groups) | {"decisions": told}
    content = json.dumps(numbers, indent=2, ensure_ascii=False)
    (sweep.output / "sweep.json").write_text(content + "\n", encoding="utf-8")
    for entry in groups:
        if entry.variants:
            plot_group(entry, sweep.output / entry.group.picture)
    sections = (line for entry in groups for line in _section(entry))
    text = "\n".join([*_head(sweep, groups), *_decided(decisions), *sections])
    (sweep.output / "table.md").write_text(text, encoding="utf-8")
    return text


def recorded_options(output: str | Path) -> dict[str, Any]:
    """`overrides`, `budget_pairs` and `processes` of the sweep that a folder is of; empty where it is of none."""
    file = Path(output) / "sweep.json"
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return {name: content[name] for name in ("overrides", "budget_pairs", "processes")}


def _head(sweep: Sweep, groups: Sequence[GroupSummary]) -> list[str]:
    finished = sum(run.finished for run in sweep.runs)
    seeds = ", ".join(str(seed) for seed in sweep.seeds)
    outcomes = [outcome for entry in groups for outcome in entry.outcomes]
    guessing = f" Guessing scores {100 * fmean(o.chance for o in outcomes):.1f} % overall." if outcomes else ""
    metrics = ", ".join(sorted(frozenset[str]().union(*(outcome.metrics for outcome in outcomes))))
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items() if version)
    return [
        f"# {sweep.file.stem}: {finished} of {len(sweep.runs)} runs",
        "",
        f"`{sweep.base.name}`, {_pairs(sweep)} training pairs a run, seeds {seeds}, processes a run: "
        f"{sweep.processes}.{guessing}",
        "",
        f"Scores ({metrics}) in percent, means over subsets, then over seeds, ± half of the 95 % t interval over "
        "seeds. It tells of training's noise, not of the queries'. Differences are paired by seed; bold ones have 0 "
        "outside of their interval, as one in twenty has where there is no difference. Shown is the smallest overall "
        "difference that these seeds would make bold 8 times in 10, if their scatter is the true one.",
        "",
        f"Versions: {versions}.",
        "",
    ]


def _pairs(sweep: Sweep) -> str:
    return " or ".join(f"{pairs:,}" for pairs in sorted({run.pairs for run in sweep.runs}, reverse=True))


def _decided(families: Sequence[Sequence[Decision]]) -> list[str]:
    tables = [line for family in families for line in _family(family)]
    return ["## What decides", "", *tables] if tables else []


def _family(decisions: Sequence[Decision]) -> list[str]:
    rows = [
        [
            f"{of.comparison.group}: {of.comparison.variant} to {of.reference}",
            "" if of.counts is None else _cell(of.difference, signed=True).strip("*"),  # bold is uncorrected
            f"{0 if of.difference is None else of.difference.n} of {of.seeds}",
            "" if of.p_value is None else _p_value(of.p_value),
            "" if of.counts is None else "yes" if of.counts else "no",
        ]
        for of in decisions
    ]
    waiting = "" if decisions[0].p_value is not None else " They are told once all have all their seeds."
    if len(rows) == 1:
        said = f"One difference of `overall` decides. A p-value (paired t test) below {LEVEL} counts."
    else:
        said = (
            f"{len(rows)} differences of `overall` decide. Their p-values (paired t tests) are corrected for as many "
            f"tests by Holm's procedure; one below {LEVEL} counts."
        )
    return [
        said + waiting,
        "",
        *_table(["difference", "overall", "seeds", "p", "counts"], rows),
    ]


def _p_value(value: float) -> str:
    return f"{value:.4f}" if value >= SMALLEST_P else f"below {SMALLEST_P}"


def _decision_json(of: Decision, family: int) -> dict[str, Any]:
    names = {
        "family": family,
        "group": of.comparison.group,
        "variant": of.comparison.variant,
        "reference": of.reference,
    }
    difference = None if of.difference is None else asdict(of.difference)
    return {**names, "difference": difference, "seeds": of.seeds, "p_value": of.p_value, "counts": of.counts}


def _section(entry: GroupSummary) -> list[str]:
    group = entry.group
    lines = [f"## {group.name}", ""]
    if group.about:
        lines += [group.about, ""]
    if entry.variants:
        lines += [f"![Scores by variant, and differences to {group.reference}]({group.picture})", ""]
        lines += [*_scores(entry), *_differences(entry), *_training(entry)]
    if entry.missing:
        lines += [f"No finished run: {', '.join(entry.missing)}.", ""]
    return lines


def _scores(entry: GroupSummary) -> list[str]:
    rows = [[_label(entry, of), *(_cell(of.scores.get(name)) for name in entry.names)] for of in entry.variants]
    return _table(["score", *entry.names], rows)


def _differences(entry: GroupSummary) -> list[str]:
    rows = [
        [of.variant.name, *(_cell(of.differences.get(name), signed=True) for name in entry.names), _power(of)]
        for of in entry.variants
        if of.differences
    ]
    return _table([f"difference to {entry.group.reference}", *entry.names, "shown"], rows) if rows else []


def _power(of: VariantSummary) -> str:
    overall = of.differences.get("overall")
    smallest = None if overall is None else overall.detectable
    return "" if smallest is None else f"{100 * smallest:.1f}"


def _training(entry: GroupSummary) -> list[str]:
    rows = []
    pairs = {variant.name: variant.runs[0].pairs for variant in entry.group.variants}
    differ = len(set(pairs.values())) > 1
    for of in entry.variants:
        numbers = of.telemetry
        trained = [f"{pairs[of.variant.name]:,}"] if differ else []
        steps = " to ".join(f"{steps:,}" for steps in sorted({outcome.steps for outcome in of.outcomes}))
        told = [write(numbers) if numbers else "" for write in TRAINING_COLUMNS.values()]
        rows.append([of.variant.name, str(len(of.outcomes)), *trained, steps, duration(of.seconds), *told])
    return _table(["training", "runs", *(["pairs"] if differ else []), "steps", "time a run", *TRAINING_COLUMNS], rows)


def _label(entry: GroupSummary, of: VariantSummary) -> str:
    return f"{of.variant.name} (reference)" if of.variant.name == entry.group.reference else of.variant.name


def _cell(value: Estimate | None, signed: bool = False) -> str:
    """In percent; a difference is bold where 0 lies outside of its interval."""
    if value is None:
        return ""
    text = f"{100 * value.mean:{'+' if signed else ''}.1f}"
    if value.margin is not None:
        text += f" ± {100 * value.margin:.1f}"
    return f"**{text}**" if signed and value.clear else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]
