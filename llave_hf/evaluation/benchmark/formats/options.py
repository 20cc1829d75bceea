"""`format: options`: a query and texts to choose from: answers to a question, or the labels of a classification.

The texts are a column that holds a list, several columns, or the same `labels` for all rows (a list, or a YAML file
that holds one). `answer` is the column of the right one: its text, its letter, or its number from 0 (`answer_is`). The
query's template sees the texts as `{choices:…}`, the target's one of them as `{option}`, with its `{letter}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llave_hf.data.described.templates import letter
from llave_hf.evaluation.benchmark.fields import BenchmarkError, Settings
from llave_hf.evaluation.benchmark.raw import EvalRow, RawInput, TaskRows

from .base import Format, Row, Tables
from .sides import SIDES, Side, SideByCase, side_from

ANSWERS = ("text", "letter", "index")


@dataclass(frozen=True)
class OptionsFormat(Format):
    """Templates of the query and of an option; where the options and the answer stand."""

    query: Side | SideByCase
    target: Side | SideByCase
    answer: str
    answer_is: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]

    keys = ("query", "target", "options", "labels", "answer", "answer_is")
    required = ("query", "answer")

    @classmethod
    def from_settings(cls, settings: Settings) -> OptionsFormat:
        """From the keys of the module's docstring.

        Raises:
            BenchmarkError: there are both `options` and `labels`, or neither.
        """
        columns, labels = settings.texts("options"), settings.listed("labels")
        if bool(columns) == bool(labels):
            raise BenchmarkError(f"{settings.where} needs either 'options' (columns) or 'labels' (texts).")
        return cls(
            query=side_from(settings.values["query"], f"{settings.where}: query"),
            target=side_from(settings.values.get("target", "{option}"), f"{settings.where}: target"),
            answer=settings.text("answer") or "",
            answer_is=settings.choice("answer_is", ANSWERS, "text"),
            columns=columns,
            labels=labels,
        )

    def read(self, tables: Tables) -> TaskRows:
        """One answer a row; labels are also the corpus of a global pool."""
        labels = self._targets({}, self.labels, f"{tables.name}, labels")
        return TaskRows(self._rows(tables, labels), [(label, tables.name) for label in labels])

    def _rows(self, tables: Tables, labels: list[RawInput]) -> Iterator[EvalRow]:
        for place, row in tables.rows():
            options = self._options(row, place)
            right = self._right(row, options, place)
            query = self.query.fill({**row, "choices": options}, place + SIDES[0])
            candidates = labels.copy() or self._targets(row, options, place + SIDES[1])
            yield EvalRow(query, [candidates.pop(right), *candidates], place=place, sides=SIDES)

    def _targets(self, row: Row, options: Sequence[str], place: str) -> list[RawInput]:
        return [
            self.target.fill({**row, "option": option, "letter": letter(number)}, place)
            for number, option in enumerate(options)
        ]

    def _options(self, row: Row, place: str) -> list[str]:
        values = [_column(row, column, place) for column in self.columns] or list(self.labels)
        found = values[0] if len(self.columns) == 1 else values
        if not isinstance(found, list) or not all(isinstance(option, str) for option in found):
            raise BenchmarkError(f"{place}: {', '.join(self.columns)} must be a list of texts, not {found!r:.80}.")
        return list(found)

    def _right(self, row: Row, options: list[str], place: str) -> int:
        value = _column(row, self.answer, place)
        if self.answer_is == "text":
            # of equal options the last: VLM2Vec's choice
            found = [number for number, option in enumerate(options) if option == value]
        elif self.answer_is == "letter":
            found = [number for number in range(len(options)) if letter(number) == value]
        else:
            found = [number for number in range(len(options)) if str(number) == str(value)]
        if not found:
            shown = options if len(options) < 10 else f"the {len(options)} options"
            raise BenchmarkError(f"{place}: {self.answer} is {value!r}: as {self.answer_is} that is none of {shown}.")
        return found[-1]


def _column(row: Row, column: str, place: str) -> Any:
    if column not in row:
        raise BenchmarkError(f"{place} lacks the column {column!r} (it has {', '.join(row)}).")
    return row[column]
