"""The interface of a format: it turns the tables of a subset into queries, answers and candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from llave_hf.evaluation.benchmark.fields import Settings
from llave_hf.evaluation.benchmark.raw import TaskRows

Row = dict[str, Any]


@dataclass(frozen=True)
class Tables:
    """Where a format reads a subset.

    Attributes:
        name: of the subset.
        read: a table's rows; None: the subset's only one.
        media: the folder that paths are relative to; None: nobody said.
        limit: how many rows of the only table, or of `queries`, count; None: all.
    """

    name: str
    read: Callable[[str | None], Iterator[Row]]
    media: Path | None = None
    limit: int | None = None

    def rows(self, table: str | None = None) -> Iterator[tuple[str, Row]]:
        """Each row with its place, for messages."""
        prefix = f"{self.name}, {table} row" if table else f"{self.name}, row"
        limit = self.limit if table in (None, "queries") else None
        for number, row in enumerate(islice(self.read(table), limit)):
            yield f"{prefix} {number}", row


class Format(ABC):
    """A layout of rows. `keys` are a task's that it reads, `pools` how the task can be ranked, the usual way first."""

    keys: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = ()
    pools: ClassVar[tuple[str, ...]] = ("local", "global")

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Settings) -> Format:
        """From the keys of a task in a benchmark file.

        Raises:
            BenchmarkError: a value cannot be used; the message names file, task and key.
        """

    @abstractmethod
    def read(self, tables: Tables) -> TaskRows:
        """The subset; rows are read one by one.

        Raises:
            BenchmarkError: a row cannot be used; the message names subset, row and field.
        """
