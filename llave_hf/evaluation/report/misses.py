"""The queries that an encoder got wrong, and what stood where the answer should.

A miss is a query of which no answer stands alone at the top: one that is merely tied with a wrong candidate is a miss
too. Ranks are ranges, `first` to `last`, wherever candidates are tied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llave_hf.evaluation.results import TaskResult
from llave_hf.evaluation.scoring.metrics import AnswerRanks, IntArray, precision_at_1_bounds
from llave_hf.evaluation.scoring.nearest import NEAREST, NOBODY, Nearest


@dataclass(frozen=True)
class Listed:
    """A candidate of a query.

    Attributes:
        number: the distinct input.
        first, last: its rank among the candidates, from 1; two numbers that differ: it is tied, in any order.
    """

    number: int
    cosine: float
    first: int
    last: int
    answer: bool

    @property
    def tied(self) -> bool:
        """Whether others have exactly its cosine."""
        return self.first < self.last


@dataclass(frozen=True)
class Miss:
    """A query that found something else first.

    Attributes:
        row: the query's number in its subset, from 0.
        query: the distinct input.
        answers: all of them, the nearest first.
        top: the first candidates; among tied ones, which of them are listed is arbitrary, and answers come last.
    """

    row: int
    query: int
    answers: tuple[Listed, ...]
    top: tuple[Listed, ...]

    @property
    def gap(self) -> float:
        """By how much the hardest negative is above the best answer."""
        return max(entry.cosine for entry in self.top) - self.answers[0].cosine


def missed_queries(ranks: AnswerRanks) -> IntArray:
    """(m,) the queries whose answers do not stand alone at the top."""
    pessimistic, _ = precision_at_1_bounds(ranks)
    return np.flatnonzero(pessimistic == 0)


def find_misses(result: TaskResult, most: int) -> list[Miss]:
    """The misses of a subset with the largest gaps, the largest first."""
    found = [_miss(result, row) for row in _widest(result, missed_queries(result.ranks), most)]
    return sorted(found, key=lambda miss: (-miss.gap, miss.row))


def _widest(result: TaskResult, rows: IntArray, most: int) -> list[int]:
    best = np.full(len(result.inputs.queries), -np.inf)
    np.maximum.at(best, result.ranks.query_numbers(), result.nearest.answers)
    gaps = result.nearest.cosines[rows, 0] - best[rows]
    return [int(row) for row in rows[np.argsort(-gaps, kind="stable")][:most]]


def _miss(result: TaskResult, row: int) -> Miss:
    answers = _answers(result, row)
    wrong = _wrong(result.nearest, row, answers)
    top = sorted([*wrong, *answers], key=lambda entry: (-entry.cosine, entry.answer))[:NEAREST]
    return Miss(row, int(result.inputs.queries[row]), tuple(answers), tuple(top))


def _answers(result: TaskResult, row: int) -> list[Listed]:
    ranks = result.ranks
    listed = [
        Listed(
            number=int(result.inputs.answers[place]),
            cosine=float(result.nearest.answers[place]),
            first=int(ranks.above[place]) + 1,
            last=int(ranks.above[place] + ranks.tied[place]) + 1,
            answer=True,
        )
        for place in np.flatnonzero(ranks.query_numbers() == row)
    ]
    return sorted(listed, key=lambda entry: -entry.cosine)


def _wrong(nearest: Nearest, row: int, answers: Sequence[Listed]) -> list[Listed]:
    kept = nearest.negatives[row] != NOBODY
    cosines = nearest.cosines[row, kept]
    listed = []
    for number, cosine in zip(nearest.negatives[row, kept], cosines, strict=True):
        above = np.count_nonzero(cosines > cosine) + sum(answer.cosine > cosine for answer in answers)
        equal = int(nearest.tied[row]) if cosine == cosines[-1] else np.count_nonzero(cosines == cosine)
        equal += sum(answer.cosine == cosine for answer in answers)
        listed.append(Listed(int(number), float(cosine), int(above) + 1, int(above + equal), answer=False))
    return listed
