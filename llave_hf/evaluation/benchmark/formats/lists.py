"""`format: lists`: a query with a list of answers and a list of other candidates (moment retrieval by file names).

The target's template sees the row and one entry of a list: its fields where it has some, else `{item}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llave_hf.evaluation.benchmark.fields import BenchmarkError, Settings
from llave_hf.evaluation.benchmark.raw import EvalRow, RawInput, TaskRows

from .base import Format, Row, Tables
from .sides import SIDES, Side, SideByCase, side_from


@dataclass(frozen=True)
class ListsFormat(Format):
    """Templates of both sides, and the columns of the two lists."""

    query: Side | SideByCase
    target: Side | SideByCase
    answers: str
    others: str

    keys = ("query", "target", "answers", "others")
    required = keys

    @classmethod
    def from_settings(cls, settings: Settings) -> ListsFormat:
        """From the templates `query` and `target` and the columns `answers` and `others`."""
        query, target = (side_from(settings.values[key], f"{settings.where}: {key}") for key in cls.keys[:2])
        return cls(query, target, settings.text("answers") or "", settings.text("others") or "")

    def read(self, tables: Tables) -> TaskRows:
        """As many answers a row as its list has."""
        return TaskRows(self._rows(tables))

    def _rows(self, tables: Tables) -> Iterator[EvalRow]:
        for place, row in tables.rows():
            answers, others = (self._targets(row, column, place) for column in (self.answers, self.others))
            if not answers:
                raise BenchmarkError(f"{place}: {self.answers} is empty: a query needs an answer.")
            query = self.query.fill(row, place + SIDES[0])
            yield EvalRow(query, answers + others, answers=len(answers), place=place, sides=SIDES)

    def _targets(self, row: Row, column: str, place: str) -> list[RawInput]:
        items = row.get(column)
        if not isinstance(items, list):
            raise BenchmarkError(f"{place}: {column} must be a list, not {items!r:.80}.")
        fields = (item if isinstance(item, Mapping) else {"item": item} for item in items)
        return [self.target.fill({**row, **values}, f"{place}, {column} {n}") for n, values in enumerate(fields)]
