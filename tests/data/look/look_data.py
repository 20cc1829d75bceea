"""Rows that a look is taken at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers import picture

from llave_hf.data.look.look import DataLook, TaskLook, look_at
from llave_hf.data.sources.specs import parse_specs

MARK = "<|image_1|>\n"


def row(query: str, positive: str, **columns: Any) -> dict[str, Any]:
    """One row of texts; `qry_image_path` and its like on top."""
    return {"qry": query, "qry_image_path": "", "pos_text": positive, "pos_image_path": "", **columns}


def write_rows(root: Path, task: str, rows: Sequence[dict[str, Any]]) -> Path:
    """`root/train/<task>/original.jsonl` and, beside, three pictures in `root/images`."""
    folder = root / "train" / task
    folder.mkdir(parents=True)
    (folder / "original.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    (root / "images").mkdir(exist_ok=True)
    for number, (mode, size) in enumerate((("RGB", (30, 20)), ("L", (24, 24)), ("RGB", (60, 50)))):
        picture(*size, seed=number, mode=mode).save(root / "images" / f"{number}.png")
    return root


def look(root: Path, **options: Any) -> DataLook:
    """At all tasks that [`write_rows`] wrote."""
    return look_at(parse_specs(str(root / "train"), media_root=str(root)), **options)


def task(looked: DataLook, name: str) -> TaskLook:
    return next(one for one in looked.tasks if one.name == name)


def problems(looked: DataLook) -> str:
    return "\n".join(str(remark) for remark in looked.remarks if remark.level == "PROBLEM")


def notes(looked: DataLook) -> str:
    return "\n".join(str(remark) for remark in looked.remarks if remark.level == "note")
