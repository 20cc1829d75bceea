"""Runs a sweep's trainings, each in a process of its own: some at a time, resumed where they stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llave_hf.training.recipe.recipe import dump_recipe

from .launching import Launch
from .plan import Run

TAIL = 15  # lines of a failed run's log that are shown
POLL_SECONDS = 0.2


@dataclass
class _Job:
    """A training that is under way."""

    run: Run
    process: subprocess.Popen[bytes]
    start: float

    def end(self) -> float:
        """Writes what it took, with earlier attempts, and returns the seconds of this one."""
        seconds = time.monotonic() - self.start
        before = seconds_of(self.run)
        self.run.beside(".json").write_text(json.dumps({"seconds": before + seconds}) + "\n", encoding="utf-8")
        return seconds


def run_all(
    runs: Sequence[Run],
    launch: Launch,
    *,
    parallel: int = 1,
    say: Callable[[str], None] = lambda line: None,
    finished: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Trains what is not finished and returns the runs that failed; the others go on.

    A finished run's checkpoints, and the initial weights that its seed gives again, are deleted.

    Args:
        runs: Of a sweep.
        launch: How a run's processes are started.
        parallel: How many run at a time.
        say: Gets a line whenever a run begins or ends.
        finished: Gets each run that has just finished.
    """
    waiting = [run for run in runs if not run.finished]
    done, total = len(runs) - len(waiting), len(runs)
    if done:
        say(f"{done} of {total} runs are finished already")
    active: list[_Job] = []
    failed: list[Run] = []
    times: list[float] = []
    try:
        while waiting or active:
            while waiting and len(active) < parallel:
                say(f"[{done + len(active) + 1}/{total}] {waiting[0]}: {_beginning(waiting[0])}")
                active.append(_start(waiting.pop(0), launch, parallel))
            time.sleep(POLL_SECONDS)
            for job in [job for job in active if job.process.poll() is not None]:
                active.remove(job)
                seconds = job.end()
                done += 1
                if job.process.returncode or not job.run.finished:
                    failed.append(job.run)
                    say(_failure(job))
                    continue
                finished(job.run)
                _clean(job.run.folder)
                times.append(seconds)
                took = f"{_score(job.run)}, {duration(seconds)}{_left(times, waiting, active, parallel)}"
                say(f"[{done}/{total}] {job.run}: {took}")
    finally:
        for job in active:  # an error or Ctrl-C: no run outlives the sweep, and each goes on from its checkpoint
            job.process.terminate()
            job.process.wait()
            job.end()
    return failed


def seconds_of(run: Run) -> float:
    """What its attempts took so far."""
    file = run.beside(".json")
    return float(json.loads(file.read_text(encoding="utf-8"))["seconds"]) if file.exists() else 0.0


def duration(seconds: float) -> str:
    """For people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _start(run: Run, launch: Launch, parallel: int) -> _Job:
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    recipe = run.beside(".yaml")
    content = {**run.recipe, "output_dir": str(run.folder)}
    recipe.write_text(dump_recipe(content), encoding="utf-8")
    command = [*launch.command, "llave_hf.train", str(recipe), "--resume_from_checkpoint"]
    with run.beside(".log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=launch.environment(parallel, run.use_cpu)
        )
    return _Job(run, process, time.monotonic())


def _beginning(run: Run) -> str:
    return f"{run.steps:,} steps, goes on from its checkpoint" if run.stopped else f"{run.steps:,} steps"


def _score(run: Run) -> str:
    results = json.loads((run.folder / "eval" / "results.json").read_text(encoding="utf-8"))
    return f"overall {100 * results['means']['overall']:.1f} %"


def _left(times: Sequence[float], waiting: Sequence[Run], active: Sequence[_Job], parallel: int) -> str:
    """How long the rest takes if its runs take as long as those so far: all cost about as much."""
    if not waiting and not active:
        return ""
    each = sum(times) / len(times)
    under_way = sum(max(0.0, each - (time.monotonic() - job.start)) for job in active)
    return f"; about {duration((each * len(waiting) + under_way) / parallel)} left"


def _failure(job: _Job) -> str:
    log = job.run.beside(".log")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    reason = f"exit code {job.process.returncode}" if job.process.returncode else "no results"
    return "\n".join([f"{job.run}: FAILED, {reason}; the end of {log}:", *(f"    {line}" for line in lines)])


def _clean(folder: Path) -> None:
    for leftover in [*folder.glob("checkpoint-*"), folder / "initial"]:
        shutil.rmtree(leftover, ignore_errors=True)
