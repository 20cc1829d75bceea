"""From a benchmark's rows to tasks in numbers of distinct inputs; what is odd in the data is counted and named."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .benchmark import Benchmark, BenchmarkError, Task
from .inputs import ROWS_NAMED, DistinctInputs
from .metrics import FloatArray, IntArray
from .mmeb import parse_row
from .rows import RowReader

logger = logging.getLogger(__name__)

PROBLEMS = {
    "repeated_answer": "the answer stands again among the wrong candidates; it is counted once",
    "empty_candidate": "a wrong candidate has no text, picture or video; it is encoded as an empty text",
    "repeated_row": "query and answer are those of an earlier row; both count",
}


@dataclass(frozen=True)
class TaskInputs:
    """A subset as numbers of distinct inputs.

    Attributes:
        queries: (Q,)
        answers: (P,) what should be found, query by query.
        pools: the distinct candidates: an array a query, or one for all queries where the pool is global.
        answer_queries: (P,) the query of each answer, from 0, ascending; None: one answer a query.
        gains: (P,) grades of the answers; None: all are equally good.
        duplicates: candidates that were left out because the same content stands before them in the same list.
        findings: what is odd in the data, and in which rows.
        digest: of queries, answers and candidates, by text and path: equal where two models were asked the same.
        revision: of the subset's rows.
    """

    task: Task
    queries: IntArray
    answers: IntArray
    pools: list[NDArray[np.int32]]
    answer_queries: IntArray | None = None
    gains: FloatArray | None = None
    duplicates: int = 0
    findings: Mapping[str, list[int]] = field(default_factory=dict)
    digest: str = ""
    revision: str | None = None

    @property
    def candidates(self) -> IntArray:
        """(Q,) how many candidates each query has."""
        if self.task.pool == "global":
            return np.full(len(self.queries), len(self.pools[0]))
        return np.array([len(pool) for pool in self.pools])


def collect_inputs(benchmark: Benchmark, reader: RowReader) -> tuple[DistinctInputs, list[TaskInputs]]:
    """Read all rows, check them and their files, and number the distinct inputs.

    A candidate with the content of an earlier one in the same list is counted once: it could only tie with it. Where
    the answer itself is repeated that is a flaw of the data (no encoder could tell the two apart): without this
    a perfect encoder would get half a point. A warning names the rows.

    Raises:
        BenchmarkError: rows or files that cannot be used.
    """
    inputs = DistinctInputs(benchmark.media_root)
    tasks = [_collect_task(task, inputs, reader) for task in benchmark.tasks]
    inputs.check_media()
    keys = np.array(inputs.keys, dtype=np.int64)
    return inputs, [replace(task, digest=_digest(task, keys)) for task in tasks]


def _collect_task(task: Task, inputs: DistinctInputs, reader: RowReader) -> TaskInputs:
    queries: list[int] = []
    answers: list[int] = []
    pools: list[NDArray[np.int32]] = []
    everything: dict[int, None] = {}
    duplicates = 0
    findings: dict[str, list[int]] = {name: [] for name in PROBLEMS}
    seen: set[tuple[int, int]] = set()
    for number, row in enumerate(reader.read(task)):
        place = f"{task.name}, row {number}"
        parsed = parse_row(row, place)
        query = inputs.add(parsed.query, place)
        candidates = [inputs.add(candidate, place) for candidate in parsed.candidates]
        answer, pool = candidates[0], dict.fromkeys(candidates)
        queries.append(query)
        answers.append(answer)
        if task.pool == "global":
            everything |= pool
        else:
            pools.append(np.fromiter(pool, dtype=np.int32))
        duplicates += len(candidates) - len(pool)
        if candidates.count(answer) > 1:
            findings["repeated_answer"].append(number)
        if any(candidate.empty for candidate in parsed.candidates):
            findings["empty_candidate"].append(number)
        if (query, answer) in seen:
            findings["repeated_row"].append(number)
        seen.add((query, answer))
    if not queries:
        raise BenchmarkError(f"{task.name} has no rows: complete the data, or leave the subset out.")
    if task.pool == "global":
        pools = [np.sort(np.fromiter(everything, dtype=np.int32))]
    named = {name: rows for name, rows in findings.items() if rows}
    _warn(task, named)
    return TaskInputs(
        task,
        np.array(queries, dtype=np.int64),
        np.array(answers, dtype=np.int64),
        pools,
        duplicates=duplicates,
        findings=named,
        revision=reader.task_revision,
    )


def _warn(task: Task, findings: Mapping[str, list[int]]) -> None:
    for name, rows in findings.items():
        named = ", ".join(map(str, rows[:ROWS_NAMED])) + (", …" if len(rows) > ROWS_NAMED else "")
        logger.warning("%s: in %d row(s) %s (row %s).", task.name, len(rows), PROBLEMS[name], named)


def _digest(task: TaskInputs, keys: IntArray) -> str:
    """Of queries, answers, grades and candidates, the latter in any order; keys (M,) of the distinct inputs."""
    digest = hashlib.sha256()
    sorted_pools = (np.sort(keys[pool]) for pool in task.pools)
    for values in (keys[task.queries], keys[task.answers], task.answer_queries, task.gains, *sorted_pools):
        if values is not None:
            digest.update(b"%d:" % len(values) + np.ascontiguousarray(values).tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
