"""Numbers a benchmark's distinct inputs and its tasks by them; what is odd in the data is counted and named."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from llave_hf.evaluation.scoring.metrics import FloatArray, IntArray

from .benchmark import Benchmark, Task
from .fields import BenchmarkError
from .inputs import ROWS_NAMED, DistinctInputs
from .raw import EvalRow, RawInput
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
    inputs = DistinctInputs(benchmark.media_root, benchmark.num_frames)
    tasks = [_collect_task(task, inputs, reader) for task in benchmark.tasks]
    inputs.check_media()
    keys = np.array(inputs.keys, dtype=np.int64)
    return inputs, [replace(task, digest=_digest(task, keys, inputs.reading)) for task in tasks]


def check_benchmark(benchmark: Benchmark, subsets: Iterable[str] | None = None) -> None:
    """Read all rows and look for all files, as an evaluation would, but encode nothing: for use before a training.

    Raises:
        BenchmarkError: what :func:`evaluate_benchmark` would raise about the data.
    """
    selected = benchmark.select(subsets)
    collect_inputs(selected, RowReader(selected))


def _collect_task(task: Task, inputs: DistinctInputs, reader: RowReader) -> TaskInputs:
    rows, corpus = reader.open(task)
    collected = _Collected(task, inputs)
    for raw, place in corpus:
        collected.everything[collected.number(raw, place)] = None
    for number, row in enumerate(rows):
        collected.add(number, row)
    if not collected.queries:
        raise BenchmarkError(f"{task.name} has no rows: complete the data, or leave the subset out.")
    return collected.finished(reader.task_revision)


class _Collected:
    """A subset's rows as numbers, one after another."""

    def __init__(self, task: Task, inputs: DistinctInputs) -> None:
        self.task = task
        self.inputs = inputs
        self.queries: list[int] = []
        self.everything: dict[int, None] = {}  # a global pool
        self._answers: list[int] = []
        self._answer_queries: list[int] = []
        self._gains: list[float] = []
        self._pools: list[NDArray[np.int32]] = []
        self._duplicates = 0
        self._findings: dict[str, list[int]] = {name: [] for name in PROBLEMS}
        self._seen: set[tuple[int, ...]] = set()

    def add(self, number: int, row: EvalRow) -> None:
        """One row; `number` is for the findings."""
        query_place, candidate_place = (row.place + side for side in row.sides)
        query = self.number(row.query, query_place)
        candidates = [self.number(raw, candidate_place) for raw in row.candidates]
        pool = dict.fromkeys(candidates)
        # two answers with the same content are one, of the better grade
        grades: dict[int, float] = {}
        for answer, gain in zip(candidates, row.gains or [1.0] * row.answers, strict=False):
            grades[answer] = max(gain, grades.get(answer, 0.0))
        self._answers += grades
        self._answer_queries += [len(self.queries)] * len(grades)
        self._gains += grades.values()
        self.queries.append(query)
        if self.task.pool == "global":
            self.everything |= pool
        else:
            self._pools.append(np.fromiter(pool, dtype=np.int32))
        self._duplicates += len(candidates) - len(pool)
        self._look(number, row, (query, *grades), candidates[row.answers :])

    def number(self, raw: RawInput, place: str) -> int:
        """The number of an input whose paths are relative to the subset's own folder."""
        return self.inputs.add(raw.within(self.task.media) if self.task.media else raw, place)

    def _look(self, number: int, row: EvalRow, asked: tuple[int, ...], others: list[int]) -> None:
        """What is odd in a row."""
        if not set(asked[1:]).isdisjoint(others):
            self._findings["repeated_answer"].append(number)
        if any(candidate.empty for candidate in row.candidates):
            self._findings["empty_candidate"].append(number)
        if asked in self._seen:
            self._findings["repeated_row"].append(number)
        self._seen.add(asked)

    def finished(self, revision: str) -> TaskInputs:
        """All rows; warns of what is odd."""
        findings = {name: rows for name, rows in self._findings.items() if rows}
        _warn(self.task, findings)
        if self.task.pool == "global":
            self._pools = [np.sort(np.fromiter(self.everything, dtype=np.int32))]
        single = len(self._answers) == len(self.queries)  # every query has one at least
        return TaskInputs(
            self.task,
            np.array(self.queries, dtype=np.int64),
            np.array(self._answers, dtype=np.int64),
            self._pools,
            answer_queries=None if single else np.array(self._answer_queries, dtype=np.int64),
            gains=np.array(self._gains) if len(set(self._gains)) > 1 else None,
            duplicates=self._duplicates,
            findings=findings,
            revision=revision,
        )


def _warn(task: Task, findings: Mapping[str, list[int]]) -> None:
    for name, rows in findings.items():
        named = ", ".join(map(str, rows[:ROWS_NAMED])) + (", …" if len(rows) > ROWS_NAMED else "")
        logger.warning("%s: in %d row(s) %s (row %s).", task.name, len(rows), PROBLEMS[name], named)


def _digest(task: TaskInputs, keys: IntArray, reading: str) -> str:
    """Of queries, answers, grades and candidates, the latter in any order; keys (M,) of the distinct inputs."""
    digest = hashlib.sha256(reading.encode())
    sorted_pools = (np.sort(keys[pool]) for pool in task.pools)
    for values in (keys[task.queries], keys[task.answers], task.answer_queries, task.gains, *sorted_pools):
        if values is not None:
            digest.update(b"%d:" % len(values) + np.ascontiguousarray(values).tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
