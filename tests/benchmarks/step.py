"""A training step of `LlaveTrainer` beside one of sentence-transformers: same weights, same pairs in the same batches.

    python tests/benchmarks/step.py                # 64, 256 and 1024 pairs a batch
    python tests/benchmarks/step.py --pairs 64     # one of them
    python tests/benchmarks/step.py --only memory  # one part: speed, memory, or graphs (graph_memory_gb)
    python tests/benchmarks/step.py --quick        # small batches, one round: does it run?

sentence-transformers is `SentenceTransformerTrainer` with `CachedMultipleNegativesRankingLoss` on the model's saved
folder. Both run `train()` with AdamW and clipping, pictures from files, hardness off and both directions on, so that
they compute the same loss; embeddings and losses are compared before anything is timed. Turns of the two alternate; a
figure is the median over the turns, a ratio the median of the turns' ratios. With OMP_NUM_THREADS=1 the processor's
time is measured and not the wall's, which a busy machine changes less.

- images to texts: a picture and an instruction -> a caption.
- mix: half of the rows so, half a caption -> a picture, so that each column holds short texts and pictures.

Each side runs at sentence-transformers' default, mini-batches of 32, and at its own best of a sweep over sizes
(`mini_batch_size`) and over budgets of tokens (`mini_batch_num_tokens`), which both have.

sentence-transformers cannot cut a column that mixes texts and pictures of this backbone into mini-batches (the error
is printed); it can hold the column whole. It is therefore measured with a remedy that its users do not have,
`cut_mixed_columns`, and also whole. Pictures are one tile, as it cannot cut tiles either.

The split of a step's time comes from hooks on the same modules in both. Peak memory is that of a process of its own,
where malloc keeps no large blocks that were freed.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from step_clock import PHASES
from step_data import WORKLOADS, open_data, save_model, write_data
from step_sides import DEFAULT, Limit, Ours, Side, Theirs
from transformers.utils import logging as transformers_logging

GOALS = {  # of a workload, with a frozen tower and without
    ("images to texts", True): 1.5,
    ("images to texts", False): 1.35,
    ("mix", True): 2.0,
    ("mix", False): 1.8,
}
SWEEPS = 2  # times that each limit is tried, of which the shorter counts
MEMORY_GOAL = 0.8
LIMITS = (
    *(Limit(size=size) for size in (8, 16, 32, 64)),
    *(Limit(tokens=tokens) for tokens in (1024, 2048, 4096, 8192)),
)
GRAPHS = (0, 128, 512, 2048)  # MiB of `graph_memory_gb`
GRAPHS_PAIRS = 1024  # of so many, all graphs are too much for a small machine
SIDES = ("llave_hf", "sentence-transformers")


@dataclass(frozen=True)
class Case:
    """One line of the tables."""

    workload: str
    frozen: bool
    pairs: int

    def __str__(self) -> str:
        return f"{self.workload} | {'frozen' if self.frozen else 'trained'} | {self.pairs}"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        scales: For each number of pairs a batch: steps a turn, rounds.
        limits: Of mini-batches, to choose the best of.
    """

    scales: dict[int, tuple[int, int]]
    limits: tuple[Limit, ...] = LIMITS


QUICK = Plan({32: (1, 1), 64: (1, 1)}, (Limit(size=16), Limit(tokens=2048)))


def open_sides(folder: Path, case: Case, steps: int) -> tuple[Ours, Theirs]:
    data = open_data(folder / "data", case.workload)
    ours = Ours(folder, data, case.frozen, case.pairs, steps)
    return ours, Theirs(folder, data, case.frozen, ours.batches(), steps)


def compare_results(folder: Path, case: Case) -> tuple[float, float]:
    """The largest difference of the embeddings, and the relative one of the losses, before any training."""
    ours, theirs = open_sides(folder, case, steps=1)
    rows = ours.batches()[0]
    difference = (ours.embeddings(rows) - theirs.embeddings(rows)).abs().max().item()
    ours.turn(), theirs.turn()
    return difference, abs(ours.first_loss() / theirs.first_loss() - 1)


def sweep(sides: tuple[Side, Side], limits: Sequence[Limit]) -> list[dict[Limit, float]]:
    """Seconds a pair of each side with each limit of its mini-batches."""
    found: list[dict[Limit, float]] = [{}, {}]
    for limit in [*limits] * SWEEPS:
        for side, seconds in zip(sides, found, strict=True):
            side.set_limit(limit)
            seconds[limit] = min(seconds.get(limit, math.inf), sum(side.turn().values()))
    return found


def alternate(
    sides: tuple[Side, Side], limits: tuple[Limit, Limit], rounds: int
) -> tuple[list[dict[str, float]], float]:
    """The median seconds a pair of each side by phase, and the median of the ratios of their sums."""
    turns: list[list[dict[str, float]]] = [[], []]
    for _ in range(rounds):
        for side, limit, made in zip(sides, limits, turns, strict=True):
            side.set_limit(limit)
            made.append(side.turn())
    ratios = [sum(theirs.values()) / sum(ours.values()) for ours, theirs in zip(*turns, strict=True)]
    medians = [{phase: statistics.median(turn[phase] for turn in made) for phase in PHASES} for made in turns]
    return medians, statistics.median(ratios)


def whole_columns(folder: Path, case: Case, ours: Ours, limit: Limit) -> str:
    """sentence-transformers without the remedy: the error where it cuts, and its speed where it does not."""
    data = open_data(folder / "data", case.workload)
    theirs = Theirs(folder, data, case.frozen, ours.batches(), ours.trainer.args.max_steps, remedy=False)
    errors = []
    for cut in (Limit(size=case.pairs // 2), Limit(tokens=1024)):
        theirs.set_limit(cut)
        try:
            theirs.turn()
            errors.append(f"{cut}: none")
        except (ValueError, RuntimeError) as raised:
            errors.append(f"{cut}: {type(raised).__name__}: {raised}")
    _, ratio = alternate((ours, theirs), (limit, Limit(size=case.pairs)), rounds=2)
    return f"{case}: whole columns, which take no remedy, {ratio:.2f} x; cut without it, {'; '.join(errors)}"


def peak_memory(folder: Path, case: Case, side: str, limit: Limit, graphs: float = 0) -> float:
    """MiB that `train()` adds at the most, in a process of its own.

    glibc gives freed blocks of any size above 64 KiB back, so that what is held is measured and not what malloc keeps.
    """
    task = json.dumps([str(folder), case.workload, case.frozen, case.pairs, side, limit, graphs])
    command = [sys.executable, __file__, "--measure", task]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(run.stdout.splitlines()[-1])


def measure(
    folder: str, workload: str, frozen: bool, pairs: int, side: str, limit: list[int | None], graphs: float
) -> None:
    """The child process of [`peak_memory`]. The plan is made before, as both sides need it."""
    case = Case(workload, frozen, pairs)
    data = open_data(Path(folder) / "data", workload)
    ours = Ours(Path(folder), data, frozen, pairs, steps=1)
    ours.keep_graphs(graphs)
    chosen: Side = ours
    plan = ours.batches()
    if side == SIDES[1]:
        chosen = Theirs(Path(folder), data, case.frozen, plan, steps=1)
    chosen.set_limit(Limit(*limit))
    gc.collect()
    before = status("VmRSS")
    chosen.turn()
    print(json.dumps(status("VmHWM") - before))


def status(name: str) -> float:
    """A line of this process's /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def report_speed(folder: Path, plan: Plan) -> None:
    """Prints pairs a second, with each side's best mini-batches too, and the split."""
    print("| batch | tower | pairs | both at 32: pairs/s | ratio | each at its best | pairs/s | ratio | goal |")
    print("|---|---|---|---|---|---|---|---|---|")
    best, splits, notes = {}, [], []
    for workload in WORKLOADS:
        for frozen in (True, False):
            for pairs, (steps, rounds) in plan.scales.items():
                case = Case(workload, frozen, pairs)
                sides = open_sides(folder, case, steps)
                for side in sides:
                    side.turn()  # warms up: the first step tries what it leaves out
                if (workload, frozen) not in best:
                    found = sweep(sides, plan.limits)  # at the smallest batch
                    best[workload, frozen] = tuple(min(one, key=one.__getitem__) for one in found)
                    notes += [
                        f"{case} | {side} | {_per_second_each(one)}" for side, one in zip(SIDES, found, strict=True)
                    ]
                limits = best[workload, frozen]
                medians, ratio = alternate(sides, limits, rounds)
                default = f"{_rates(medians)} | {ratio:.2f} x"
                if limits != (DEFAULT, DEFAULT):
                    default = "- | -" if pairs == 1024 else _at_default(sides, rounds)
                print(
                    f"| {case} | {default} | {limits[0]} / {limits[1]} | {_rates(medians)} | {ratio:.2f} x "
                    f"| {GOALS[workload, frozen]} x |",
                    flush=True,
                )
                splits += [f"| {case} | {side} | {_split(one)} |" for side, one in zip(SIDES, medians, strict=True)]
                if workload == "mix" and pairs == min(plan.scales):
                    notes.append(whole_columns(folder, case, sides[0], limits[0]))
    print("\n| batch | tower | pairs | ms a pair | " + " | ".join((*PHASES, "sum")) + " |\n" + "|---" * 11 + "|")
    print("\n".join(splits) + "\n\n" + "\n".join(f"- {note}" for note in notes), flush=True)


def report_memory(folder: Path, plan: Plan) -> None:
    """Prints the memory that a step adds, in mini-batches of equal size, and of half the size on our side."""
    half = Limit(size=DEFAULT.size // 2)
    print(f"\n| batch | tower | pairs | at {DEFAULT}, MiB | ratio | ours at {half} | ratio | goal |")
    print("|---|---|---|---|---|---|---|---|")
    for workload in WORKLOADS:
        for frozen in (True, False):
            for pairs in plan.scales:
                case = Case(workload, frozen, pairs)
                ours, theirs = (peak_memory(folder, case, side, DEFAULT) for side in SIDES)
                halved = peak_memory(folder, case, SIDES[0], half)
                print(
                    f"| {case} | {ours:.0f} / {theirs:.0f} | {ours / theirs:.2f} x "
                    f"| {halved:.0f} | {halved / theirs:.2f} x | {MEMORY_GOAL} x |",
                    flush=True,
                )


def report_graphs(folder: Path, plan: Plan) -> None:
    """Prints what it gives, and what it takes, to keep more graphs (`graph_memory_gb`)."""
    for pairs, (_, rounds) in plan.scales.items():
        if pairs < GRAPHS_PAIRS:
            _report_graphs_of(folder, pairs, rounds)


def _report_graphs_of(folder: Path, pairs: int, rounds: int) -> None:
    print(f"\n{pairs} pairs, both sides in mini-batches of {DEFAULT}\n")
    print("| batch | tower | pairs | memory for graphs, MiB | pairs/s | ratio | goal | added by `train()`, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for workload in WORKLOADS:
        for frozen in (True, False):
            case = Case(workload, frozen, pairs)
            sides = open_sides(folder, case, steps=1)
            for side in sides:
                side.turn()  # warms up
            theirs = peak_memory(folder, case, SIDES[1], DEFAULT)
            for mib in GRAPHS:
                sides[0].keep_graphs(mib)
                medians, ratio = alternate(sides, (DEFAULT, DEFAULT), rounds)
                ours = peak_memory(folder, case, SIDES[0], DEFAULT, mib)
                print(
                    f"| {case} | {mib} | {_rates(medians)} | {ratio:.2f} x | {GOALS[workload, frozen]} x "
                    f"| {ours:.0f} / {theirs:.0f} |",
                    flush=True,
                )


def _at_default(sides: tuple[Side, Side], rounds: int) -> str:
    medians, ratio = alternate(sides, (DEFAULT, DEFAULT), rounds)
    return f"{_rates(medians)} | {ratio:.2f} x"


def _rates(medians: Sequence[dict[str, float]]) -> str:
    return " / ".join(f"{1 / sum(one.values()):.1f}" for one in medians)


def _per_second_each(seconds: dict[Limit, float]) -> str:
    return ", ".join(f"{limit}: {1 / taken:.1f} pairs/s" for limit, taken in seconds.items())


def _split(one: dict[str, float]) -> str:
    return " | ".join(f"{1000 * one[phase]:.1f}" for phase in PHASES) + f" | {1000 * sum(one.values()):.1f}"


STEPS_AND_ROUNDS = {  # of a turn, and turns; 1,024 pairs at the best sizes only
    64: (1, 3),
    256: (1, 2),
    1024: (1, 1),
}


REPORTS = {"speed": report_speed, "memory": report_memory, "graphs": report_graphs}


def report(folder: Path, plan: Plan, only: Sequence[str]) -> None:
    rows = max(64, *plan.scales) + 64
    save_model(folder / "model", write_data(folder / "data", rows))
    print(f"{torch.get_num_threads()} threads; {' / '.join(SIDES)} throughout\n")
    for workload in WORKLOADS:
        difference, loss = compare_results(folder, Case(workload, True, 64))
        assert difference < 1e-5 and loss < 1e-4, f"{workload}: embeddings by {difference:.1e}, loss by {loss:.1e}"
        print(f"- {workload}: embeddings differ by {difference:.0e} at the most, the loss by {loss:.0e} of it")
    print(flush=True)
    for part in only:
        REPORTS[part](folder, plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="batches of 32 and 64 pairs, one round: does it run?")
    parser.add_argument("--pairs", type=int, nargs="+", choices=STEPS_AND_ROUNDS, default=list(STEPS_AND_ROUNDS))
    parser.add_argument("--only", nargs="+", choices=REPORTS, default=list(REPORTS), help="parts (default: all)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if arguments.measure:
        measure(*json.loads(arguments.measure))
        return
    with tempfile.TemporaryDirectory() as folder:
        plan = QUICK if arguments.quick else Plan({count: STEPS_AND_ROUNDS[count] for count in arguments.pairs})
        report(Path(folder), plan, arguments.only)


if __name__ == "__main__":
    main()
