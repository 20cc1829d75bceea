"""The rows of all tasks in Arrow, as a dataset of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from llave_hf.data.samples import Pair, Sample

from .columns import ColumnError, SideColumns
from .contents import content_codes, token_estimates
from .groups import how_to_group, rows_of_groups, sizes_of_groups
from .labels import Judgements


@dataclass(frozen=True)
class SourceSlice:
    """One task: the rows `start:stop` of a `PairDataset`.

    Attributes:
        name: Name of the subset.
        weight: How often a row of it is drawn, beside a row of another task.
    """

    name: str
    start: int
    stop: int
    weight: float = 1.0

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task, checked, in Arrow."""

    name: str
    weight: float
    media_root: str | None
    rows: np.ndarray  # (n,) number of each row in its subset
    query: SideColumns
    positive: SideColumns
    negatives: SideColumns | None
    negative_offsets: np.ndarray  # (n + 1,); row i has the negatives offsets[i]:offsets[i + 1]
    judgements: Judgements = field(default_factory=Judgements)

    def __len__(self) -> int:
        return len(self.rows)

    def pair(self, index: int) -> Pair:
        """Row `index` of the task."""
        own = slice(int(self.negative_offsets[index]), int(self.negative_offsets[index + 1]))
        negatives: tuple[Sample, ...] = ()
        if self.negatives is not None:
            negatives = tuple(self.negatives.sample(i, self.media_root) for i in range(own.start, own.stop))
        return Pair(
            self.query.sample(index, self.media_root),
            self.positive.sample(index, self.media_root),
            negatives,
            self.name,
            int(self.rows[index]),
            **self.judgements.of_row(index, own),
        )

    def token_estimates(self, use_negatives: bool) -> np.ndarray:
        """Visual and text tokens of each row, roughly: int64, `(n,)`."""
        tokens = token_estimates(self.query) + token_estimates(self.positive)
        if use_negatives and self.negatives is not None:
            running = np.concatenate([[0], np.cumsum(token_estimates(self.negatives))])
            tokens += np.diff(running[self.negative_offsets])
        return tokens


class PairDataset(torch.utils.data.Dataset[Pair]):
    """Pairs of several tasks, one task after the other. Map-style; rows stay in Arrow until they are asked for.

    Attributes:
        sources: Name, rows and weight of each task, in order.
    """

    def __init__(self, tasks: Sequence[TaskRows]) -> None:
        self._tasks = tuple(tasks)
        self._starts = np.cumsum([0, *map(len, self._tasks)])
        self.sources = tuple(
            SourceSlice(task.name, int(start), int(start) + len(task), task.weight)
            for task, start in zip(self._tasks, self._starts, strict=False)
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a PairDataset of {len(self)} rows")
        task = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._tasks[task].pair(index - int(self._starts[task]))

    @property
    def tasks(self) -> tuple[TaskRows, ...]:
        """The rows of each task."""
        return self._tasks

    def all_have_media(self) -> bool:
        """Whether each pair has a picture or a video in its query or its positive."""
        return all((task.query.has_media() | task.positive.has_media()).all() for task in self._tasks)

    def contents(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows' queries and of their documents, equal where the content is: int64, `(n,)` each."""
        queries = content_codes([(task.query, task.media_root) for task in self._tasks])
        return queries, content_codes([(task.positive, task.media_root) for task in self._tasks])

    def groups(self) -> list[np.ndarray]:
        """Rows of each task that belong into a batch together: indices `(groups, G)`, a task an array.

        Raises:
            ValueError: A task has no column `batch_group`, or its groups are not all of one size.
        """
        found = []
        for task, source in zip(self._tasks, self.sources, strict=True):
            if task.judgements.groups is None:
                raise ValueError(f"{task.name} {how_to_group('DATA')}.")
            try:
                found.append(source.start + rows_of_groups(task.judgements.groups))
            except ColumnError as error:
                raise ValueError(f"{task.name}: {error}") from error
        return found

    def group_sizes(self) -> list[tuple[int, int]]:
        """Of each task, how many groups it has and how many rows a group.

        Raises:
            ValueError: See `groups`.
        """
        return sizes_of_groups(self.groups())

    def token_estimates(self, use_negatives: bool = True) -> np.ndarray:
        """Visual and text tokens of each row, roughly, by lengths of text and numbers of pictures: int64, `(n,)`.

        Args:
            use_negatives: Whether the rows' own negatives count.
        """
        return np.concatenate([np.zeros(0, np.int64), *(task.token_estimates(use_negatives) for task in self._tasks)])
