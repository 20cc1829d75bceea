"""Compares two evaluations query by query: which differences are real, and which could be chance.

Both models answered the same queries, so the test is paired: if the models were equally good, which of the two had
which score would be up to a coin, query by query (a sign-flip permutation test). Over many subsets some differences
look real by chance; Holm's correction keeps the risk of any such error at 5 %.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from llave_hf.errors import UserError
from llave_hf.evaluation.scoring.metrics import FloatArray
from llave_hf.evaluation.scoring.resampling import (
    bootstrap_interval,
    bootstrap_interval_of_means,
    holm,
    p_value,
    sign_flip_means,
)
from llave_hf.runtime.places import check_output_folder

from .results import PER_QUERY_FILE

RESAMPLES = 20_000
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """What B does better than A on a subset (or over all); scores are 0 to 1.

    Attributes:
        ci95: Paired bootstrap interval of `difference`.
        p: Of the paired test; `adjusted_p` after Holm's correction over the subsets.
        real: Whether `adjusted_p` is below 0.05.
    """

    metric: str
    a: float
    b: float
    difference: float
    ci95: tuple[float, float]
    p: float
    adjusted_p: float
    real: bool
    n: int


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on one benchmark.

    Attributes:
        overall: Of the mean over the subsets that both have; tested by itself, without correction.
        only_in_one: Subsets that one of the two did not evaluate.
    """

    benchmark: str
    a: str
    b: str
    tasks: dict[str, Difference]
    overall: Difference
    only_in_one: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The content of `compare.json`."""
        return asdict(self)


def compare_results(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compare two folders that `evaluate_benchmark` wrote; differences are B - A.

    Raises:
        UserError: A folder is no evaluation, or the two did not answer the same questions on the same data.
    """
    (result_a, scores_a), (result_b, scores_b) = _read(Path(a)), _read(Path(b))
    if result_a["benchmark"] != result_b["benchmark"]:
        raise UserError(f"{a} is of benchmark {result_a['benchmark']}, {b} of {result_b['benchmark']}.")
    shared = [name for name in result_a["tasks"] if name in result_b["tasks"]]
    if not shared:
        raise UserError(f"{a} and {b} have no subset in common; evaluate both on the same ones.")
    for name in shared:
        _check_same(name, result_a["tasks"][name], result_b["tasks"][name], f"{a} and {b}")
    pairs = {name: (scores_a[name], scores_b[name]) for name in shared}
    tests = {name: _test(*pair, seed=number) for number, (name, pair) in enumerate(pairs.items())}
    adjusted = dict(zip(shared, holm([test[0] for test in tests.values()]), strict=True))
    tasks = {
        name: _difference(result_a["tasks"][name]["metric"], pair, tests[name][0], adjusted[name])
        for name, pair in pairs.items()
    }
    return Comparison(
        benchmark=result_a["benchmark"],
        a=result_a["model"],
        b=result_b["model"],
        tasks=tasks,
        overall=_overall(tasks, pairs, {name: test[1] for name, test in tests.items()}),
        only_in_one=sorted(set(result_a["tasks"]) ^ set(result_b["tasks"])),
    )


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `compare.json` and `compare.md`."""
    check_output_folder(folder, "The output folder")
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n"
    (folder / "compare.json").write_text(content, encoding="utf-8")
    (folder / "compare.md").write_text(markdown_comparison(comparison), encoding="utf-8")


def markdown_comparison(comparison: Comparison) -> str:
    """The table, in percent, the largest differences first."""
    lines = [
        f"# {comparison.benchmark}: {comparison.b} (B) against {comparison.a} (A)",
        "",
        "| subset | metric | A, % | B, % | B - A | 95 % interval | p, corrected | real? |",
        "|---|---|---:|---:|---:|---|---:|---|",
    ]
    ordered = sorted(comparison.tasks.items(), key=lambda item: (-abs(item[1].difference), item[0]))
    lines += [_row(name, difference) for name, difference in ordered]
    lines += [_row("**mean over subsets**", comparison.overall), ""]
    lines.append(
        f"Paired over queries. p: sign-flip permutation test ({RESAMPLES:,} draws), Holm's correction over the "
        f"{len(comparison.tasks)} subset(s), the mean tested by itself. Real: p < {LEVEL}. Paired bootstrap intervals."
    )
    if comparison.only_in_one:
        lines += ["", f"Not compared, as only one has it: {', '.join(comparison.only_in_one)}."]
    return "\n".join([*lines, ""])


def _row(name: str, of: Difference) -> str:
    low, high = (100 * bound for bound in of.ci95)
    verdict = ("B is better" if of.difference > 0 else "A is better") if of.real else "no"
    return (
        f"| {name} | {of.metric} | {100 * of.a:.1f} | {100 * of.b:.1f} | {100 * of.difference:+.1f} | "
        f"{low:+.1f} to {high:+.1f} | {_shown(of.adjusted_p)} | {verdict} |"
    )


def _shown(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    for name in ("results.json", PER_QUERY_FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no {name}; give the --output folder of `llave evaluate`, run it anew if it is old."
            )
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        scores = load_file(folder / PER_QUERY_FILE)
        queries = {name: task["n"] for name, task in results["tasks"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder} holds no evaluation that can be read ({error}): run it anew.") from error
    if {name: len(score) for name, score in scores.items()} != queries:
        raise UserError(f"{folder}: {PER_QUERY_FILE} has not the subsets and queries of results.json: run it anew.")
    return results, scores


def _check_same(name: str, a: Mapping[str, Any], b: Mapping[str, Any], folders: str) -> None:
    fields = {
        "metric": "measured by another metric",
        "revision": "of another data revision",
        "n": "over another number of queries",
        "candidates": "over another number of candidates",
        "inputs": "over other queries, answers or candidates",
    }
    for field, what in fields.items():
        if a[field] != b[field]:
            raise UserError(
                f"{name} is {what} in one of {folders} than in the other ({field}: {a[field]}, {b[field]}); a "
                "comparison needs both models on the same data: evaluate one of them anew."
            )


def _test(a: FloatArray, b: FloatArray, seed: int) -> tuple[float, FloatArray]:
    """The p value of a subset, and the differences that chance alone gives; subsets draw by seeds of their own."""
    by_chance = sign_flip_means(b - a, resamples=RESAMPLES, seed=seed)
    return p_value(float((b - a).mean()), by_chance), by_chance


def _difference(metric: str, pair: tuple[FloatArray, FloatArray], p: float, adjusted: float) -> Difference:
    a, b = pair
    return Difference(
        metric=metric,
        a=float(a.mean()),
        b=float(b.mean()),
        difference=float((b - a).mean()),
        ci95=bootstrap_interval(b - a),
        p=p,
        adjusted_p=adjusted,
        real=adjusted < LEVEL,
        n=len(a),
    )


def _overall(
    tasks: Mapping[str, Difference],
    pairs: Mapping[str, tuple[FloatArray, FloatArray]],
    by_chance: Mapping[str, FloatArray],
) -> Difference:
    a, b = (float(np.mean([getattr(task, side) for task in tasks.values()])) for side in ("a", "b"))
    p = p_value(b - a, np.mean(list(by_chance.values()), axis=0))
    return Difference(
        metric=", ".join(sorted({task.metric for task in tasks.values()})),
        a=a,
        b=b,
        difference=b - a,
        ci95=bootstrap_interval_of_means([b - a for a, b in pairs.values()]),
        p=p,
        adjusted_p=p,
        real=p < LEVEL,
        n=sum(task.n for task in tasks.values()),
    )
