"""The mined rows of a task as lines of JSON, and the report that says they are whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llave_hf.data.described.names import GROUP, KNOWN, NEGATIVE_HARDNESS
from llave_hf.data.pairs import TaskRows
from llave_hf.data.rows.columns import holds_places
from llave_hf.data.sources.indexed import Subset

from .mining import MinedTask, MiningOptions
from .names import REPORT_FILE, ROWS_FILE
from .row_columns import beside_the_sides, json_line, known_columns, mined_columns, with_bytes


def write_task(
    folder: Path,
    subset: Subset,
    task: TaskRows,
    mined: MinedTask,
    mark: str,
    options: MiningOptions,
    path_of: Callable[[str], str],
) -> list[str]:
    """Writes the rows in the order of their groups.

    Args:
        folder: Of the task.
        subset: The rows as their files have them.
        task: The same rows, read.
        mined: What was found.
        mark: Says what all of it depends on.
        options: What was asked for.
        path_of: Gives the path that is written for a picture.

    Returns:
        Lines for the screen: what the rows had, and have no more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    originals = subset.table.take(task.rows)
    described = subset.spec.description() is not None
    names = originals.column_names
    # Rows whose columns have other names than MMEB's, or hold pictures, get MMEB's, with paths.
    anew = described or any(holds_places(originals, name) for name in names if name in KNOWN)
    kept = beside_the_sides(names, described=described) if anew else names
    lost = [name for name in with_bytes(originals.schema) if name in kept]
    originals = originals.select([name for name in kept if name not in lost])
    made = mined_columns(task, mined.negatives, mined.scores, mined.judged, path_of)
    told = [f"  left out the column {name!r}: it holds bytes, which a line of JSON cannot hold" for name in lost]
    if NEGATIVE_HARDNESS in names and task.negatives is not None:
        if options.num_negatives:
            told.append(f"  {NEGATIVE_HARDNESS!r} of the negatives that rows came with is this model's now")
        else:
            made = [{key: value for key, value in row.items() if key != NEGATIVE_HARDNESS} for row in made]
    unfinished = folder / f"{ROWS_FILE}.tmp"
    with unfinished.open("w", encoding="utf-8") as file:
        for index, group in _in_order(mined):
            row: dict[str, Any] = {}
            if originals.num_columns:
                row = originals.slice(index, 1).to_pylist(maps_as_pydicts="strict")[0]
            row |= known_columns(task, index, path_of) if anew else {}
            row |= made[index]
            row |= {} if mined.grouping is None else {GROUP: group}
            file.write(json_line(row))
    unfinished.rename(folder / ROWS_FILE)
    # Last, so that a folder with it is whole.
    report = json.dumps(_summary(mined, mark, options), indent=2) + "\n"
    (folder / REPORT_FILE).write_text(report, encoding="utf-8")
    return told


def _summary(mined: MinedTask, mark: str, options: MiningOptions) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "mark": mark,
        "options": asdict(options),
        "rows": len(mined.negatives),
        "negatives": sum(map(len, mined.negatives)),
        "left_out": dict(mined.dropped),
    }
    if mined.judged is not None:
        summary["judged_right"] = {"candidates": mined.dropped["judge"], "own_negatives": mined.judged.own_right}
    if mined.grouping is not None:
        found = mined.grouping
        summary["groups"] = {
            "groups": len(found.rows),
            "hard_share": found.hard_share,
            "random_share": found.random_share,
            "repeating": found.repeating,
            "rows_in_none": found.left,
        }
    return summary


def _in_order(mined: MinedTask) -> list[tuple[int, int | None]]:
    """The rows as they are written, each with its group."""
    if mined.grouping is None:
        return [(row, None) for row in range(len(mined.negatives))]
    groups = mined.grouping.numbers(len(mined.negatives))
    order = np.argsort(np.where(groups < 0, len(groups), groups), kind="stable").tolist()
    return [(row, int(groups[row]) if groups[row] >= 0 else None) for row in order]
