"""Opens each subset of training data by itself: one that cannot be used does not hide the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.data.pairs import capped_rows, checked_rows, task_names
from llave_hf.data.rows.known import unread_columns
from llave_hf.data.rows.sides import check_fields, own_columns
from llave_hf.data.rows.tasks import TaskRows
from llave_hf.data.sources.indexed import Subset, SubsetFiles, find_files, is_saved, open_source
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.data.streaming.sources import StreamedSubset, open_stream

from .remarks import PROBLEM, Remark
from .spread import evenly


@dataclass(frozen=True)
class OpenedTask:
    """A task as far as it was read.

    Attributes:
        subset: Where its rows stand.
        rows: How many training would have, after `max_samples`.
        parts: The rows that were read: all of them, or some shards of a stream.
        unread: Columns that training would not look at.
        faults: What is wrong with the rows.
    """

    name: str
    subset: SubsetFiles
    rows: int
    parts: tuple[TaskRows, ...]
    unread: tuple[str, ...]
    faults: tuple[ValueError, ...]

    @property
    def read(self) -> int:
        """How many rows were read."""
        return sum(map(len, self.parts))


def open_tasks(
    specs: Sequence[SourceSpec], *, streaming: bool = False, use_negatives: bool = True, shards: int = 4, seed: int = 0
) -> tuple[list[OpenedTask], list[Remark]]:
    """All tasks that can be opened, and why others cannot.

    Args:
        specs: As [`parse_specs`] gives them.
        streaming: Whether to read some shards of each task instead of all rows.
        use_negatives: See [`load_pairs`].
        shards: How many of a stream's task.
        seed: Of the choice of rows where there are more than `max_samples`.
    """
    subsets: list[Subset | StreamedSubset] = []
    remarks = []
    for spec in specs:
        for found in _each_subset(spec, streaming):
            if isinstance(found, Remark):
                remarks.append(found)
            else:
                subsets.append(found)
    tasks = []
    for subset, name in zip(subsets, _names(subsets, remarks), strict=True):
        try:
            if isinstance(subset, Subset):
                tasks.append(_indexed(subset, name, use_negatives, seed))
            else:
                tasks.append(_streamed(subset, name, use_negatives, shards))
        except (ValueError, OSError) as error:
            remarks.append(Remark(PROBLEM, name, str(error)))
    return tasks, remarks


def _each_subset(spec: SourceSpec, streaming: bool) -> Iterator[Subset | StreamedSubset | Remark]:
    opening = open_stream if streaming else open_source
    try:
        found = None if is_saved(spec) else find_files(spec)
        wanted = [spec] if found is None else [replace(spec, subsets=[one.name]) for one in found]
    except (ValueError, OSError) as error:
        yield Remark(PROBLEM, spec.path, str(error))
        return
    for one in wanted:
        try:
            yield from opening(one)
        except (ValueError, OSError) as error:
            yield Remark(PROBLEM, spec.path if one is spec else f"{spec.path}/{(one.subsets or [''])[0]}", str(error))


def _names(subsets: Sequence[SubsetFiles], remarks: list[Remark]) -> list[str]:
    try:
        return task_names(subsets)
    except ValueError as error:
        remarks.append(Remark(PROBLEM, "", str(error)))
        return [f"{subset.spec.path}/{subset.name} ({number})" for number, subset in enumerate(subsets)]


def _indexed(subset: Subset, name: str, use_negatives: bool, seed: int) -> OpenedTask:
    check_fields(subset.fields, subset.spec, subset.where(), tell=False)
    kept = capped_rows(subset, len(subset.table), seed)
    table = subset.table if kept is None else subset.table.take(pa.array(kept))
    numbers = np.arange(len(table)) if kept is None else kept
    faults: list[ValueError] = []
    part = checked_rows(subset, table, numbers, name, use_negatives=use_negatives, check_files=True, faults=faults)
    return OpenedTask(
        name, subset, len(table), (part,), _unread(own_columns(subset.fields), subset.spec), tuple(faults)
    )


def _streamed(subset: StreamedSubset, name: str, use_negatives: bool, shards: int) -> OpenedTask:
    rows = [shard.rows for shard in subset.shards]
    total = sum(rows)
    if total == 0:
        raise ValueError(f"{subset.where()} has no row; leave it out.")
    firsts = np.cumsum([0, *rows])
    parts: list[TaskRows] = []
    faults: list[ValueError] = []
    for number in evenly(len(rows), shards).tolist():
        start = int(firsts[number])
        for table in subset.shards[number].read():
            numbers = np.arange(start, start + len(table))
            parts.append(
                checked_rows(
                    subset, table, numbers, name, use_negatives=use_negatives, check_files=True, faults=faults
                )
            )
            start += len(table)
    first = Path(subset.files[0][0])
    columns = pq.read_schema(first).names if first.suffix == ".parquet" and first.is_file() else ()
    most = subset.spec.max_samples or total
    return OpenedTask(name, subset, min(total, most), tuple(parts), _unread(columns, subset.spec), tuple(faults))


def _unread(names: Iterable[str], spec: SourceSpec) -> tuple[str, ...]:
    return tuple(sorted(unread_columns(list(names), spec.columns(), spec.ignore)))
