"""Batches of mined groups at full size: 662,000 rows (MMEB's, with 50,000 a task): processor time and memory.

    python tests/benchmarks/groups.py [--rounds N] [--rows N]

First an epoch's plan, of rows and of groups, in turns; medians. Then the groups of one task of 50,000 rows, each of
which has 100 neighbours, by both methods; finding the neighbours is not in it. Memory is the peak of what Python and
NumPy hold beside the data, next to what a matrix of all pairs would take.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from llave_hf.data import SourceSlice, TaskBatchSampler
from llave_hf.data.mining.candidates import Candidates, find_candidates
from llave_hf.data.mining.grouping import GROUP_BY, group_rows

TASK = 50_000
CLUSTER = 200  # rows among which a row's neighbours are
RANKS = 100


def sources_of(rows: int) -> list[SourceSlice]:
    """Tasks of 50,000 rows, and the rest."""
    ends = [*range(0, rows, TASK), rows]
    return [SourceSlice(f"task{i}", *ends[i : i + 2]) for i in range(len(ends) - 1)]


def plans(rows: int) -> dict[str, Callable[[], Any]]:
    """The plans of an epoch in batches of 256; about a tenth of the rows share their document with another."""
    sources, rng = sources_of(rows), np.random.default_rng(0)
    contents = np.arange(rows), rng.integers(0, 10 * rows, rows)
    made: dict[str, Callable[[], Any]] = {}
    for size in (0, 8, 32):
        groups = None
        if size:
            groups = [s.start + rng.permutation(len(s))[: len(s) // size * size].reshape(-1, size) for s in sources]
        for tasks in ("one", "mixed"):
            sampler = TaskBatchSampler(sources, 256, contents=contents, batch_tasks=tasks, groups=groups)
            made[f"{'groups of ' + str(size) if size else 'rows'}, {tasks}"] = sampler.global_batches
    return made


def task() -> tuple[Candidates, np.ndarray]:
    """A task whose rows lie in clusters, with the nearest documents of each query, and the queries' vectors."""
    rng = np.random.default_rng(0)
    clusters = rng.standard_normal((TASK // CLUSTER, 1, 64)) * 3
    rows = (clusters + rng.standard_normal((TASK // CLUSTER, CLUSTER, 64))).astype(np.float32)
    queries, documents = (rows + 0.3 * rng.standard_normal(rows.shape).astype(np.float32) for _ in range(2))
    queries, documents = (side / np.linalg.norm(side, axis=2, keepdims=True) for side in (queries, documents))
    cosines = queries @ documents.transpose(0, 2, 1)
    nearest = np.argsort(-cosines, axis=2, kind="stable")[:, :, : RANKS + 2]
    first = np.arange(TASK // CLUSTER)[:, None, None] * CLUSTER
    scores = np.take_along_axis(cosines, nearest, 2).reshape(TASK, -1)
    own = np.einsum("ijk,ijk->ij", queries, documents).ravel()
    found = find_candidates(
        scores,
        (nearest + first).reshape(TASK, -1),
        np.arange(TASK),
        np.arange(TASK),
        num_documents=TASK,
        itself=np.full(TASK, -1),
        ceilings=0.95 * own,
        floor=-np.inf,
        ranks=(0, RANKS),
    )
    return found, queries.reshape(TASK, -1)


def measured(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of processor time, MiB at the peak, and the result."""
    began = time.process_time()
    result = work()
    seconds = time.process_time() - began
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="plans a line (default: 3)")
    parser.add_argument("--rows", type=int, default=662_000, metavar="N", help="of all tasks (default: 662,000)")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float, Any]]] = {name: [] for name in plans(arguments.rows)}
    for _ in range(arguments.rounds):
        for name, work in plans(arguments.rows).items():
            found[name].append(measured(work))
    print(f"an epoch's plan of {arguments.rows:,} rows: seconds of processor time, MiB at the peak")
    for name, values in found.items():
        print(f"  {name:<22}{median(value[0] for value in values):8.2f}{median(value[1] for value in values):8.0f}")
    candidates, vectors = task()
    print(f"groups of {TASK:,} rows; a matrix of all pairs would take {4 * TASK**2 / 2**20:,.0f} MiB")
    for by in GROUP_BY:
        for size in (8, 32):
            began = time.process_time()
            grouping = group_rows(candidates, size, by, vectors)
            seconds = time.process_time() - began
            print(f"  {by:<15}{size:>3}{seconds:9.1f} s   hard pairs {grouping.hard_share:.1%}, left {grouping.left}")
    tracemalloc.start()
    group_rows(candidates, 8, "mutual_ranks", vectors)
    print(f"  peak of mutual_ranks in groups of 8: {tracemalloc.get_traced_memory()[1] / 2**20:,.0f} MiB")


if __name__ == "__main__":
    main()
