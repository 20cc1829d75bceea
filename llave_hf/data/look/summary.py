"""A look at data as plain mappings, for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .look import DataLook, ShownSample, TaskLook
from .spread import Spread


def summary(look: DataLook) -> dict[str, Any]:
    """All that a look found, as JSON takes it; lengths are characters and tokens, sizes are pixels."""
    return {
        "rows": look.rows,
        "opened_rows": look.opened,
        "problems": look.problems,
        "prompts": look.prompts,
        "remarks": [asdict(remark) for remark in look.remarks],
        "files": {**asdict(look.copies), "examples": [list(pair) for pair in look.copies.examples]},
        "tasks": {task.name: _task(task) for task in look.tasks},
    }


def _task(task: TaskLook) -> dict[str, Any]:
    pictures = task.pictures
    return {
        "rows": task.rows,
        "read_rows": task.read,
        "opened_rows": task.opened,
        "weight": task.weight,
        "files": [{"file": file, "rows": rows} for file, rows in task.files],
        "sides": {
            side.role: {
                "entries": side.entries,
                "texts": side.texts,
                "distinct_texts": side.distinct_texts,
                "pictures": side.pictures,
                "videos": side.videos,
                "empty": side.empty,
                "characters": _spread(side.characters),
                "tokens": _spread(task.tokens.by_role.get(side.role)),
            }
            for side in task.sides
        },
        "repeats": asdict(task.repeats),
        "pictures": {
            "opened": pictures.pictures,
            "broken": pictures.broken,
            "modes": dict(pictures.modes.most_common()),
            "width": _spread(pictures.side(0)),
            "height": _spread(pictures.side(1)),
        },
        "token_rows": task.tokens.rows,
        "cut_samples": task.tokens.cut,
        "unread_columns": list(task.unread),
        "pairs": [
            {"row": pair.row, "more_negatives": pair.more_negatives, "samples": [_sample(one) for one in pair.samples]}
            for pair in task.pairs
        ],
    }


def _sample(shown: ShownSample) -> dict[str, Any]:
    return {
        "role": shown.role,
        "text": shown.sample.text,
        "pictures": [str(picture) for picture in shown.sample.images],
        "video": None if shown.sample.video is None else str(shown.sample.video),
        "prompt": None if shown.prompt is None else str(shown.prompt),
        "tokens": None if shown.prompt is None else shown.prompt.tokens,
        "fault": shown.fault,
    }


def _spread(spread: Spread | None) -> dict[str, int] | None:
    if spread is None:
        return None
    return {"min": spread.least, "median": spread.median, "95 %": spread.most_95, "max": spread.most}
