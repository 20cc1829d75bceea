"""Checks the scorer itself on a benchmark's own rows: an encoder that knows nothing must score chance.

Nothing is encoded, the vectors are made up: one vector for everything, and random ones. A scorer that lets the answer
win its ties gives the first of them 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llave_hf.evaluation.benchmark.collection import TaskInputs
from llave_hf.evaluation.retrieval.retrieval import normalise, rank_tasks
from llave_hf.evaluation.scoring.metrics import chance, per_query_metric

DIMENSIONS = 16
DRAWS = 8
STANDARD_ERRORS = 8.0  # of the mean over so few draws: a sound scorer stays within them


@dataclass(frozen=True)
class SelfTest:
    """What encoders that know nothing score on a subset; all 0 to 1.

    Attributes:
        random: mean over some draws.
        allowed: how far `random` may lie from chance.
    """

    task: str
    chance: float
    constant: float
    random: float
    allowed: float

    @property
    def passed(self) -> bool:
        """The constant encoder scores chance exactly, the random one nearly."""
        exact = math.isclose(self.constant, self.chance, rel_tol=1e-12)
        return exact and abs(self.random - self.chance) <= self.allowed


def self_test(tasks: Sequence[TaskInputs], inputs: int) -> list[SelfTest]:
    """Score a constant encoder and random ones.

    Args:
        tasks: from :func:`collect_inputs`.
        inputs: M, how many distinct inputs there are.
    """
    apart, total = _with_queries_apart(tasks, inputs)
    constant = _scores(apart, np.ones((total, DIMENSIONS), dtype=np.float32))
    draws = [
        _scores(apart, np.random.default_rng(seed).standard_normal((total, DIMENSIONS)).astype(np.float32))
        for seed in range(DRAWS)
    ]
    found = []
    for number, task in enumerate(tasks):
        expected, of_constant = constant[number]
        of_random = np.array([draw[number][1] for draw in draws])
        least = math.sqrt(expected * (1 - expected) / len(task.queries))  # of independent queries
        error = max(float(of_random.std(ddof=1)), least) / math.sqrt(DRAWS)
        allowed = STANDARD_ERRORS * error + 1e-9
        found.append(SelfTest(task.task.name, expected, of_constant, float(of_random.mean()), allowed))
    return found


def self_test_table(tests: Sequence[SelfTest]) -> str:
    """One line a subset, in percent."""
    width = max(len(test.task) for test in tests)
    lines = [f"{'':<{width}} {'chance':>8} {'constant':>9} {'random':>8}"]
    for test in tests:
        values = f"{100 * test.chance:>8.2f} {100 * test.constant:>9.2f} {100 * test.random:>8.2f}"
        lines.append(f"{test.task:<{width}} {values}  {'' if test.passed else 'FAILED'}".rstrip())
    return "\n".join(lines)


def _with_queries_apart(tasks: Sequence[TaskInputs], inputs: int) -> tuple[list[TaskInputs], int]:
    """Every query as an input of its own: where it is also a candidate, any encoder finds it."""
    apart = []
    for task in tasks:
        apart.append(replace(task, queries=np.arange(inputs, inputs + len(task.queries))))
        inputs += len(task.queries)
    return apart, inputs


def _scores(tasks: Sequence[TaskInputs], vectors: np.ndarray) -> list[tuple[float, float]]:
    """Chance and score of each subset."""
    found = []
    for task, ranks in zip(tasks, rank_tasks(tasks, vectors, normalise(vectors)), strict=True):
        metric = per_query_metric(task.task.metric)
        found.append(
            (math.fsum(metric(chance(ranks))) / len(task.queries), math.fsum(metric(ranks)) / len(task.queries))
        )
    return found
