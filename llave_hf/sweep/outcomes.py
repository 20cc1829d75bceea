"""What a finished run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import Run, Sweep
from .running import seconds_of

TELEMETRY = ("gap_hard", "gap_easy", "overlap", "auc", "negatives", "effective_negatives", "masked_share")


@dataclass(frozen=True)
class Outcome:
    """A finished run's numbers.

    Attributes:
        scores: Means over subsets by meta-task, `in`, `out` and `overall`, 0 to 1.
        chance: The mean over subsets of what guessing scores.
        metrics: Of the subsets.
        steps: That were trained.
        seconds: Of all its attempts, start and evaluation included.
        telemetry: Of the last stretch of training, see [`llave_hf.training.telemetry.report.summary`].
    """

    run: Run
    scores: Mapping[str, float]
    chance: float
    metrics: frozenset[str]
    steps: int
    seconds: float
    telemetry: Mapping[str, float]


def read_outcome(run: Run) -> Outcome | None:
    """The numbers of a run; None where it is not finished."""
    if run.recorded is not None:
        return Outcome(run=run, **{**run.recorded, "metrics": frozenset(run.recorded["metrics"])})
    if not run.finished:
        return None
    results = _json(run.folder / "eval" / "results.json")
    telemetry = run.folder / "telemetry.json"
    latest = _json(telemetry)["latest"] if telemetry.exists() else {}
    tasks = results["tasks"].values()
    return Outcome(
        run=run,
        scores=results["means"],
        chance=sum(task["chance"] for task in tasks) / len(tasks),
        metrics=frozenset(task["metric"] for task in tasks),
        steps=_json(run.folder / "trainer_state.json")["global_step"],
        seconds=seconds_of(run),
        telemetry={name: latest[name] for name in TELEMETRY if latest.get(name) is not None},
    )


def record_into(sweep: Sweep) -> Callable[[Run], None]:
    """What enters each run that has just finished into the sweep's file of results, if it has one."""

    def enter(run: Run) -> None:
        outcome = read_outcome(run)
        if sweep.recorded is not None and outcome is not None:
            sweep.recorded.add(run.recipe, sweep.processes, numbers_of(outcome))

    return enter


def numbers_of(outcome: Outcome) -> dict[str, Any]:
    """What of it is recorded, as JSON has it."""
    return {
        "scores": dict(outcome.scores),
        "chance": outcome.chance,
        "metrics": sorted(outcome.metrics),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "telemetry": dict(outcome.telemetry),
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
