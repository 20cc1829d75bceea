"""`format: beir`: three tables, `queries`, `corpus` and `qrels` (which document answers which query, and how well).

On the Hub they are three configurations of a data set, in a folder three folders or files. Their ids are compared as
text. A pair with a score of 0 or less is no answer; of a pair that stands twice the higher score counts. `where` keeps
the queries with these values only (`where: {language: english}`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llave_hf.evaluation.benchmark.fields import BenchmarkError, Settings, mapping
from llave_hf.evaluation.benchmark.raw import EvalRow, RawInput, TaskRows

from .base import Format, Row, Tables
from .sides import Side, SideByCase, side_from

logger = logging.getLogger(__name__)

# what the id columns are called, in ViDoRe 1 and 2 and VisRAG, in ViDoRe 3, in BEIR itself
QUERY_IDS = ("query-id", "query_id", "_id", "id")
CORPUS_IDS = ("corpus-id", "corpus_id", "_id", "id")

Documents = dict[str, tuple[RawInput, str]]  # by id, with their places
Answers = dict[str, dict[str, float]]  # scores by query and document


@dataclass(frozen=True)
class BeirFormat(Format):
    """Templates of a query and of a document, and which queries count."""

    query: Side | SideByCase
    target: Side | SideByCase
    where: Mapping[str, Any] = field(default_factory=dict)

    keys = ("query", "target", "where")
    required = ("query", "target")
    pools = ("global",)

    @classmethod
    def from_settings(cls, settings: Settings) -> BeirFormat:
        """From `query`, `target` and `where`."""
        query, target = (side_from(settings.values[key], f"{settings.where}: {key}") for key in cls.required)
        where = settings.values.get("where")
        return cls(query, target, {} if where is None else mapping(where, f"{settings.where}: where"))

    def read(self, tables: Tables) -> TaskRows:
        """The queries with their graded answers; the whole corpus is ranked."""
        documents = self._documents(tables)
        return TaskRows(self._rows(tables, documents, _answers(tables, documents)), documents.values())

    def _documents(self, tables: Tables) -> Documents:
        documents: Documents = {}
        for place, row in tables.rows("corpus"):
            number, _ = _id(row, CORPUS_IDS, place)
            document = self.target.fill(row, place)
            if documents.setdefault(number, (document, place))[0] != document:
                raise BenchmarkError(f"{place}: the id {number} is also another document's ({documents[number][1]}).")
        return documents

    def _rows(self, tables: Tables, documents: Documents, answers: Answers) -> Iterator[EvalRow]:
        unknown = dict.fromkeys(answers)
        for place, row in tables.rows("queries"):
            number, column = _id(row, QUERY_IDS, place)
            unknown.pop(number, None)
            if not self._kept(row, place):
                continue
            if number not in answers:
                raise BenchmarkError(f"{place}: {column}: qrels has no relevant document for query {number}.")
            scores = answers[number]
            yield EvalRow(
                self.query.fill(row, place),
                [documents[document][0] for document in scores],
                answers=len(scores),
                gains=tuple(scores.values()),
                place=place,
            )
        if unknown:
            logger.warning(
                "%s: qrels has %d queries that queries lacks (%s, …).", tables.name, len(unknown), next(iter(unknown))
            )

    def _kept(self, row: Row, place: str) -> bool:
        for column in self.where:
            if column not in row:
                raise BenchmarkError(f"{place} lacks the column {column!r} of 'where' (it has {', '.join(row)}).")
        return all(row[column] == value for column, value in self.where.items())


def _answers(tables: Tables, documents: Documents) -> Answers:
    answers: Answers = {}
    for place, row in tables.rows("qrels"):
        query, _ = _id(row, QUERY_IDS[:2], place)
        document, column = _id(row, CORPUS_IDS[:2], place)
        score = row.get("score")
        if not isinstance(score, (int, float)):
            raise BenchmarkError(f"{place}: score must be a number, not {score!r}.")
        if score <= 0:
            continue
        if document not in documents:
            raise BenchmarkError(f"{place}: {column}: there is no document {document} in corpus: complete the data.")
        scores = answers.setdefault(query, {})
        scores[document] = max(float(score), scores.get(document, 0.0))
    return answers


def _id(row: Row, columns: tuple[str, ...], place: str) -> tuple[str, str]:
    """The id of a row as text, and its column."""
    for column in columns:
        if row.get(column) is not None:
            return str(row[column]), column
    raise BenchmarkError(f"{place} lacks an id: {' or '.join(columns)} (it has {', '.join(row)}).")
