"""Training rows from the Hub or from disk, as pairs.

A recipe says what their columns mean, or they are in MMEB's schema: a row has `qry, qry_image_path, pos_text,
pos_image_path` and, if it likes, `neg_text, neg_image_path` and a `*_video_path` for each role. A picture's path may
be a list of paths; `<|image_1|>` in the text marks each picture. Pictures that lie in the table itself, as the Hub has
them, stand in the same columns or in `qry_image` and so on. `label`, `pos_hardness`, `neg_hardness`, `pos_score` and
`neg_score` are read where they are, see `labels.py`, and `batch_group`, see `groups.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from llave_hf.data.rows.columns import ColumnError, SideColumns
from llave_hf.data.rows.groups import capped_groups, how_to_group, read_groups, rows_of_groups
from llave_hf.data.rows.known import check_unread
from llave_hf.data.rows.labels import read_judgements
from llave_hf.data.rows.sides import check_fields, training_sides
from llave_hf.data.rows.tasks import PairDataset, SourceSlice, TaskRows
from llave_hf.data.rows.validation import check_media, side_faults
from llave_hf.data.sources.indexed import Subset, SubsetFiles, open_source
from llave_hf.data.sources.specs import SourceSpec, TrainData, parse_specs
from llave_hf.model.media_llave import MediaError

from .samples import Pair, Sample, sample_from

Located: TypeAlias = tuple[SideColumns, str, Callable[[int], str]]  # a side, its role, where an entry stands


def load_pairs(
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
) -> PairDataset:
    """Opens and checks training data. Each subset of each source is one task.

    Args:
        train_data: One source or several: a Hub id, a folder in MMEB's layout, a folder saved by datasets, a
            .parquet, .jsonl, .json, .csv or .tar file, or several by one pattern; or a mapping with the keys of
            `SourceSpec`, which win over these arguments.
        media_root: What paths of pictures are relative to. None: the folder of each source.
        subsets: Names of the subsets to read; None reads all.
        split: None reads `original` (MMEB's), else `train`, else the only one there is.
        max_samples_per_source: At most so many rows of each subset (the paper: 50,000), drawn at random from `seed`
            and the subset's name, so that another source beside it changes nothing.
        use_negatives: Whether to read the columns `neg_*`, or what is described as `negatives`.
        check_files: Whether to look for every picture now (existence only; one listing a folder).
        whole_groups: Whether rows need a `batch_group`, and `max_samples_per_source` keeps whole groups only.
        seed: Of the choice of rows.

    Raises:
        ValueError: A source, subset, split or column is not there, or a row is empty or wrongly marked.
        MediaError: A file is missing or leaves `media_root`.
    """
    defaults = {"media_root": media_root, "subsets": subsets, "split": split, "max_samples": max_samples_per_source}
    opened = open_tasks(
        parse_specs(train_data, **defaults),
        use_negatives=use_negatives,
        check_files=check_files,
        whole_groups=whole_groups,
        seed=seed,
    )
    return PairDataset([task for _, task in opened])


def open_tasks(
    specs: Sequence[SourceSpec],
    *,
    use_negatives: bool = True,
    check_files: bool = True,
    whole_groups: bool = False,
    seed: int = 0,
) -> list[tuple[Subset, TaskRows]]:
    """[`load_pairs`]'s tasks, each with the subset that its rows come from."""
    opened = [subset for spec in specs for subset in open_source(spec)]
    return [
        (subset, _task_rows(subset, name, use_negatives, check_files, whole_groups, seed))
        for subset, name in zip(opened, task_names(opened), strict=True)
    ]


def _task_rows(
    subset: Subset, name: str, use_negatives: bool, check_files: bool, whole_groups: bool, seed: int
) -> TaskRows:
    kept = capped_rows(subset, len(subset.table), seed, checked_groups(subset, subset.table) if whole_groups else None)
    check_fields(subset.fields, subset.spec, subset.where())
    table = subset.table if kept is None else subset.table.take(pa.array(kept))
    rows = np.arange(len(table)) if kept is None else kept
    return checked_rows(subset, table, rows, name, use_negatives=use_negatives, check_files=check_files)


def checked_rows(
    subset: SubsetFiles,
    table: pa.Table,
    rows: np.ndarray,
    name: str,
    *,
    use_negatives: bool,
    check_files: bool,
    faults: list[ValueError] | None = None,
) -> TaskRows:
    """Rows of a subset as rows of a task.

    Args:
        subset: Where they stand.
        table: The rows, whose columns are looked at already.
        rows: `(n,)` number of each in the subset.
        name: Of the task.
        use_negatives, check_files: See [`load_pairs`].
        faults: Is given what is wrong with rows, which then stay. None: the first of it is raised.

    Raises:
        ValueError: A column holds what it must not, or a row is empty or wrongly marked.
        MediaError: A file is missing or leaves `media_root`.
    """

    def locate(index: int) -> str:
        return subset.locate(int(rows[index]))

    try:
        if subset.spec.description() is None:
            check_unread(table, subset.where(), subset.spec.ignore)
        query, positive, negatives, offsets = training_sides(
            table, subset.spec, subset.where(), use_negatives=use_negatives
        )
        judgements = read_judgements(table, name, offsets if negatives is not None else None)
    except ColumnError as error:
        where = subset.where(int(rows[0])) if error.row is None else locate(error.row)
        raise ValueError(f"{where}: {error}") from error

    def locate_negative(index: int) -> str:
        return locate(int(np.searchsorted(offsets, index, side="right")) - 1)

    sides = [(query, "query", locate), (positive, "positive", locate)]
    if negatives is not None:
        sides.append((negatives, "negative", locate_negative))
    for fault in _faults(sides, subset.spec.media_root, check_files):
        if faults is None:
            raise fault
        faults.append(fault)
    sides_of_rows = query, positive, negatives, offsets, judgements
    return TaskRows(name, subset.spec.weight, subset.spec.media_root, rows, *sides_of_rows)


def _faults(sides: Sequence[Located], media_root: str | None, check_files: bool) -> Iterator[ValueError]:
    for side, role, locate in sides:
        yield from side_faults(side, role, locate)
    try:
        check_media([(side, locate) for side, _, locate in sides], media_root, check_files)
    except MediaError as error:
        yield error


def checked_groups(subset: SubsetFiles, table: pa.Table) -> np.ndarray:
    """The group of each of a subset's rows: int64 `(n,)`, -1 where it is in none.

    Raises:
        ValueError: There is no column of groups, or it cannot be used.
    """
    try:
        groups = read_groups(table)
        if groups is None:
            raise ValueError(f"{subset.where()} {how_to_group(subset.spec.path)}.")
        rows_of_groups(groups)
    except ColumnError as error:
        raise ValueError(f"{subset.where() if error.row is None else subset.locate(error.row)}: {error}") from error
    return groups


def capped_rows(subset: SubsetFiles, size: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray | None:
    """Which of a subset's rows to keep, in the order of the file: `(n,)`; None keeps all.

    Args:
        subset: Whose rows.
        size: How many there are.
        seed: Of the choice.
        groups: `(size,)`, the group of each row; whole ones are kept. None: rows are kept one by one.

    Raises:
        ValueError: There is no row.
    """
    if size == 0:
        raise ValueError(f"{subset.where()} has no row; leave it out.")
    limit = subset.spec.max_samples
    if limit is None or size <= limit:
        return None
    order = np.random.default_rng((seed, zlib.crc32(subset.name.encode())))
    if groups is not None:
        return capped_groups(groups, limit, order)
    return np.sort(order.permutation(size)[:limit])


def task_names(subsets: Sequence[SubsetFiles]) -> list[str]:
    """Names of subsets; where two sources have a subset of one name, the source's name goes before it.

    Raises:
        ValueError: Two tasks would have one name.
    """
    plain = [subset.spec.name or subset.name for subset in subsets]
    names = [
        name if plain.count(name) == 1 or subset.spec.name else f"{subset.spec.path}/{name}"
        for subset, name in zip(subsets, plain, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"train_data names {name!r} twice; name it once, with a weight, or give the entries a `name` each."
            )
    return names


__all__ = ["Pair", "PairDataset", "Sample", "SourceSlice", "TaskRows", "load_pairs", "sample_from"]
