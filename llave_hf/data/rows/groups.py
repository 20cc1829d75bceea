"""The column `batch_group`: rows of a task that belong into a batch together, as `llave mine` finds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.described.names import GROUP

from .columns import ColumnError


def read_groups(table: pa.Table) -> np.ndarray | None:
    """The group of each row: int64 `(n,)`, -1 where a row is in none. None: there is no such column.

    Raises:
        ColumnError: The column holds something else than whole numbers from 0.
    """
    if GROUP not in table.column_names:
        return None
    column = table.column(GROUP)
    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise ColumnError(f"column {GROUP!r} holds {column.type}; it must hold whole numbers, or null.")
    groups = pc.fill_null(column.cast(pa.int64()), -1).combine_chunks().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((groups < 0) & ~pc.is_null(column).to_numpy(zero_copy_only=False))
    if len(wrong):
        raise ColumnError(f"{GROUP!r} is {groups[wrong[0]]}; give a number from 0, or null.", int(wrong[0]))
    return groups


def rows_of_groups(groups: np.ndarray) -> np.ndarray:
    """The rows of each group, in the order of their numbers.

    >>> rows_of_groups(np.array([1, 1, 0, -1, 0]))
    array([[2, 4],
           [0, 1]])

    Args:
        groups: `(n,)`, see [`read_groups`].

    Returns:
        `(groups, G)` places of rows; `(0, 1)` where no row is in a group.

    Raises:
        ColumnError: The groups are not all of one size.
    """
    grouped = np.flatnonzero(groups >= 0)
    if not len(grouped):
        return grouped.reshape(0, 1)
    order = grouped[np.argsort(groups[grouped], kind="stable")]
    numbers, sizes = np.unique(groups[order], return_counts=True)
    usual = int(np.bincount(sizes).argmax())
    odd = np.flatnonzero(sizes != usual)
    if len(odd):
        raise ColumnError(
            f"{GROUP!r} {numbers[odd[0]]} has {sizes[odd[0]]} rows where others have {usual}; all groups of a task "
            "are of one size, and a row that fills none has null."
        )
    return order.reshape(-1, usual)


def capped_groups(groups: np.ndarray, limit: int, order: np.random.Generator) -> np.ndarray:
    """Which rows to keep so that at most `limit` are left and no group is cut: places, ascending.

    Raises:
        ColumnError: The groups are not all of one size.
    """
    rows = rows_of_groups(groups)
    kept = order.permutation(len(rows))[: limit // rows.shape[1]]
    return np.sort(rows[kept].ravel())


def check_neighbours(groups: np.ndarray) -> None:
    """Looks whether the rows of each group stand together, as a stream needs them.

    Raises:
        ColumnError: They do not.
    """
    grouped = groups[groups >= 0]
    firsts = grouped[np.flatnonzero(np.diff(grouped, prepend=-1))]
    numbers, times = np.unique(firsts, return_counts=True)
    if (times > 1).any():
        raise ColumnError(
            f"the rows of {GROUP!r} {numbers[times > 1][0]} stand apart; a stream reads a group in one piece: write "
            "the rows in the order of their groups, as llave mine does, or leave `streaming` out."
        )


def how_to_group(path: str) -> str:
    """The end of a message about data without groups."""
    return (
        f"has no column {GROUP!r}, which batch_groups needs. Write it, and train on what is written, with the same "
        f"media_root: llave mine {path} MODEL --output mined --group_size 8"
    )


def sizes_of_groups(groups: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Of each task, how many groups it has and how many rows a group: of `(groups, G)` arrays."""
    return [(len(rows), rows.shape[1]) for rows in groups]
