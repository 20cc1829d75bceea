"""`format: pairs`: a row is a query and its target; all targets of the subset are ranked (text-video retrieval)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llave_hf.evaluation.benchmark.fields import Settings
from llave_hf.evaluation.benchmark.raw import EvalRow, TaskRows

from .base import Format, Tables
from .sides import SIDES, Side, SideByCase, side_from


@dataclass(frozen=True)
class PairsFormat(Format):
    """Templates of both sides."""

    query: Side | SideByCase
    target: Side | SideByCase

    keys = ("query", "target")
    required = ("query", "target")
    pools = ("global",)

    @classmethod
    def from_settings(cls, settings: Settings) -> PairsFormat:
        """From `query` and `target`."""
        return cls(*(side_from(settings.values[key], f"{settings.where}: {key}") for key in cls.keys))

    def read(self, tables: Tables) -> TaskRows:
        """One answer a row."""
        return TaskRows(self._rows(tables))

    def _rows(self, tables: Tables) -> Iterator[EvalRow]:
        for place, row in tables.rows():
            query = self.query.fill(row, place + SIDES[0])
            yield EvalRow(query, [self.target.fill(row, place + SIDES[1])], place=place, sides=SIDES)
