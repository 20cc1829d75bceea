"""`format: mmeb`, the default: MMEB's own rows, prompts included."""

from __future__ import annotations

from dataclasses import dataclass

from llave_hf.evaluation.benchmark.fields import Settings
from llave_hf.evaluation.benchmark.mmeb import parse_row
from llave_hf.evaluation.benchmark.raw import TaskRows

from .base import Format, Tables


@dataclass(frozen=True)
class MmebFormat(Format):
    """See :func:`..mmeb.parse_row`."""

    @classmethod
    def from_settings(cls, settings: Settings) -> MmebFormat:
        """There is nothing to set."""
        return cls()

    def read(self, tables: Tables) -> TaskRows:
        """The rows as they are."""
        return TaskRows(parse_row(row, place) for place, row in tables.rows())
