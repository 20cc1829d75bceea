"""Tasks whose rows are read while they are trained on; what `load_pairs` gives, for data larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from llave_hf.data.described.names import GROUP
from llave_hf.data.pairs import capped_rows, checked_groups, checked_rows, task_names
from llave_hf.data.rows.columns import ColumnError
from llave_hf.data.rows.groups import check_neighbours, how_to_group, rows_of_groups, sizes_of_groups
from llave_hf.data.rows.tasks import PairDataset, SourceSlice, TaskRows
from llave_hf.data.samples import Pair
from llave_hf.data.sources.specs import TrainData, parse_specs

from .sources import StreamedSubset, open_stream


class StreamedRow(NamedTuple):
    """A pair, the keys of its query and its document, and about how many tokens it has."""

    pair: Pair
    query: int
    document: int
    tokens: int


class StreamedTask:
    """The rows of one subset, read shard by shard and checked as they are read.

    Args:
        name: Of the task.
        subset: Where its rows stand.
        seed: Of the choice of rows where there are more than `max_samples`, which is `load_pairs`'s choice.
        use_negatives, check_files, whole_groups: See [`load_pairs`].

    Raises:
        ValueError: There is no row, or there are no groups, or they do not stand together.
    """

    def __init__(
        self,
        name: str,
        subset: StreamedSubset,
        *,
        seed: int = 0,
        use_negatives: bool = True,
        check_files: bool = True,
        whole_groups: bool = False,
    ) -> None:
        self.name = name
        self.subset = subset
        self.use_negatives = use_negatives
        self.check_files = check_files
        rows = [shard.rows for shard in subset.shards]
        self._firsts = np.cumsum([0, *rows]).tolist()
        groups = self._read_groups() if whole_groups else None
        self._kept = capped_rows(subset, sum(rows), seed, groups)
        self._size = sum(rows) if self._kept is None else len(self._kept)
        self._groups = groups if groups is None or self._kept is None else groups[self._kept]

    def __len__(self) -> int:
        return self._size

    def groups(self) -> np.ndarray:
        """Rows that belong into a batch together: their places among the rows that are kept, `(groups, G)`.

        Raises:
            ValueError: The task was opened without groups.
        """
        if self._groups is None:
            raise ValueError(f"{self.name} was opened without its groups; open it with whole_groups=True.")
        return rows_of_groups(self._groups)

    def _read_groups(self) -> np.ndarray:
        read: list[pa.Table] = []
        for shard in self.subset.shards:
            for table in shard.read(only=[GROUP]):
                chosen = [name for name in table.column_names if name == GROUP]
                if not chosen:
                    raise ValueError(f"{shard.file} {how_to_group(self.subset.spec.path)}.")
                read.append(table.select(chosen))
        groups = checked_groups(self.subset, pa.concat_tables(read, promote_options="permissive"))
        try:
            check_neighbours(groups)
        except ColumnError as error:
            raise ValueError(f"{self.subset.where()}: {error}") from error
        return groups

    def shard_of(self, index: int) -> tuple[int, int, int]:
        """The shard that holds row `index`, the first row that is kept of it, and the first behind it."""
        row = index if self._kept is None else int(self._kept[index])
        shard = int(np.searchsorted(self._firsts, row, side="right")) - 1
        first, behind = self._firsts[shard : shard + 2]
        if self._kept is not None:
            first, behind = np.searchsorted(self._kept, [first, behind]).tolist()
        return shard, first, behind

    def chunks(self, shards: Iterable[int]) -> Iterator[TaskRows]:
        """The rows of some shards, in their order.

        Raises:
            ValueError: A row cannot be used, or the data have changed; the message names source, file and row.
            MediaError: A file is missing or leaves `media_root`.
        """
        return (self._checked(table, rows) for table, rows in self._tables(shards))

    def epoch(self, order: np.random.Generator, count: int) -> Iterator[StreamedRow]:
        """`count` rows, chosen at random, the shards in random order."""
        left = len(self)
        for table, rows in self._tables(order.permutation(len(self.subset.shards)).tolist()):
            if count < left:
                here = int(order.hypergeometric(count, left - count, len(rows)))
                chosen = np.sort(order.choice(len(rows), here, replace=False))
                left, count = left - len(rows), count - here
                table, rows = table.take(pa.array(chosen)), rows[chosen]
            if len(rows):
                yield from self._streamed(self._checked(table, rows))

    def epoch_of_groups(self, order: np.random.Generator, count: int) -> Iterator[StreamedRow]:
        """`count` rows, whole groups chosen at random, each in one piece, the shards in random order.

        A group that a shard's end cuts comes when the second of its shards has been read.
        """
        groups = self.groups()
        size = groups.shape[1]
        of_row = np.full(len(self), -1)
        chosen = order.permutation(len(groups))[: count // size]
        of_row[groups[chosen].ravel()] = np.repeat(chosen, size)
        cut: dict[int, list[StreamedRow]] = {}
        for table, rows in self._tables(order.permutation(len(self.subset.shards)).tolist()):
            group = of_row[rows if self._kept is None else np.searchsorted(self._kept, rows)]
            here = np.flatnonzero(group >= 0)
            if not len(here):
                continue
            chunk = self._checked(table.take(pa.array(here)), rows[here])
            for number, row in zip(group[here].tolist(), self._streamed(chunk), strict=True):
                cut.setdefault(number, []).append(row)
                if len(cut[number]) == size:
                    yield from sorted(cut.pop(number), key=lambda one: one.pair.row)

    def _streamed(self, chunk: TaskRows) -> Iterator[StreamedRow]:
        tokens = chunk.token_estimates(self.use_negatives)
        for index in range(len(chunk)):
            pair = chunk.pair(index)
            yield StreamedRow(pair, pair.query.key(), pair.positive.key(), int(tokens[index]))

    def _tables(self, shards: Iterable[int]) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """The rows that are kept, and their numbers in the subset."""
        for number in shards:
            shard, first = self.subset.shards[number], self._firsts[number]
            if self._kept is not None and not len(self._between(first, first + shard.rows)):
                continue
            start = first
            for table in shard.read():
                rows = self._between(start, start + len(table))
                yield (table if len(rows) == len(table) else table.take(pa.array(rows - start))), rows
                start += len(table)
            if start - first != shard.rows:
                raise ValueError(
                    f"{shard.file} has changed: {start - first} rows stand where there were {shard.rows} when the run "
                    "began; start again."
                )

    def _between(self, start: int, stop: int) -> np.ndarray:
        if self._kept is None:
            return np.arange(start, stop)
        return self._kept[slice(*np.searchsorted(self._kept, [start, stop]))]

    def _checked(self, table: pa.Table, rows: np.ndarray) -> TaskRows:
        return checked_rows(
            self.subset, table, rows, self.name, use_negatives=self.use_negatives, check_files=self.check_files
        )


class StreamedPairs(torch.utils.data.Dataset[Pair]):
    """Pairs of several tasks that are not in memory. For batches see [`StreamedBatches`].

    Rows can be asked for by number as well, which is quick where the numbers ascend and slow where they do not: a
    shard is read up to the row.

    Attributes:
        tasks: The tasks.
        sources: Name, rows and weight of each task, in order.
    """

    def __init__(self, tasks: Sequence[StreamedTask]) -> None:
        self.tasks = tuple(tasks)
        starts = np.cumsum([0, *map(len, self.tasks)]).tolist()
        self.sources = tuple(
            SourceSlice(task.name, start, start + len(task), task.subset.spec.weight)
            for task, start in zip(self.tasks, starts, strict=False)
        )
        self._ahead: Iterator[TaskRows] = iter(())  # of the open shard, the chunks behind the open one
        self._open: TaskRows | None = None
        self._first = self._behind = 0  # the open chunk's first row, and the first behind the open shard

    def group_sizes(self) -> list[tuple[int, int]]:
        """Of each task, how many groups it has and how many rows a group.

        Raises:
            ValueError: The data were opened without groups.
        """
        return sizes_of_groups([task.groups() for task in self.tasks])

    def __reduce__(self) -> tuple[type[StreamedPairs], tuple[Sequence[StreamedTask]]]:
        return StreamedPairs, (self.tasks,)  # to another process without what is open here

    def __len__(self) -> int:
        return self.sources[-1].stop if self.sources else 0

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a StreamedPairs of {len(self)} rows")
        if not self._first <= index < self._behind:
            self._open_shard(index)
        try:
            while self._open is None or index >= self._first + len(self._open):
                self._first += 0 if self._open is None else len(self._open)
                self._open = next(self._ahead)
        except (ValueError, OSError):
            self._behind = self._first  # nothing is open
            raise
        return self._open.pair(index - self._first)

    def _open_shard(self, index: int) -> None:
        number = next(number for number, source in enumerate(self.sources) if index < source.stop)
        start = self.sources[number].start
        shard, first, behind = self.tasks[number].shard_of(index - start)
        self._ahead, self._open = self.tasks[number].chunks([shard]), None
        self._first, self._behind = start + first, start + behind


TrainingPairs: TypeAlias = PairDataset | StreamedPairs


def stream_pairs(
    train_data: TrainData,
    *,
    media_root: str | None = None,
    subsets: Sequence[str] | None = None,
    split: str | None = None,
    max_samples_per_source: int | None = None,
    use_negatives: bool = True,
    check_files: bool = True,
    whole_groups: bool = False,
    seed: int = 0,
) -> StreamedPairs:
    """Opens training data as [`load_pairs`] does, with the same arguments, and leaves the rows where they are.

    Sources are parquet files, here or on the Hub, local JSONL and tar files, and folders saved by datasets. Rows and
    their files are checked as they are read.

    Raises:
        ValueError: A source, subset, split or column is not there, or a source cannot be streamed.
    """
    defaults = {"media_root": media_root, "subsets": subsets, "split": split, "max_samples": max_samples_per_source}
    opened = [subset for spec in parse_specs(train_data, **defaults) for subset in open_stream(spec)]
    settings: dict[str, Any] = {"use_negatives": use_negatives, "check_files": check_files, "seed": seed}
    return StreamedPairs(
        [
            StreamedTask(name, subset, whole_groups=whole_groups, **settings)
            for subset, name in zip(opened, task_names(opened), strict=True)
        ]
    )
