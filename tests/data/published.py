"""Rows in the exact schemas of published training data: names and types of their columns, contents invented."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from tables import picture_bytes, stored

STRING = datasets.Value("string")
MMEB = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        features: Its schema.
        rows: Some rows.
        files: Name of the file that holds them, in a folder of its own, by split.
        entry: What an entry of `train_data` says beside the path.
    """

    features: datasets.Features
    rows: list[dict[str, Any]]
    files: dict[str, str]
    entry: dict[str, Any] = field(default_factory=dict)

    def write(self, root: Path) -> dict[str, Any]:
        """Writes the files and the pictures that they name; the entry of `train_data` that opens them."""
        (root / "images").mkdir(parents=True, exist_ok=True)
        for row in range(8):
            (root / f"images/{row}.jpg").write_bytes(picture_bytes(row, kind="JPEG"))
        for split, file in self.files.items():
            path = root / "data" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {name: f"{value}{split}" if name == "pos_text" and value else value for name, value in row.items()}
                for row in self.rows
            ]
            if file.endswith(".jsonl"):
                path.write_text("\n".join(map(json.dumps, rows)))
            else:
                datasets.Dataset.from_list(rows, features=self.features).to_parquet(path)
        return {"path": str(root / "data"), "media_root": str(root), **self.entry}


def _rows(count: int, make: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [make(row) for row in range(count)]


def _mmeb(row: int, **changes: str) -> dict[str, Any]:
    return {
        "qry": f"<|image_1|>\nRepresent the given image with the following question: What is thing {row}?\n",
        "qry_image_path": f"images/{row}.jpg",
        "pos_text": f"Thing {row}",
        "pos_image_path": "",
        "neg_text": f"Thing {row + 1}",
        "neg_image_path": "",
        **changes,
    }


PAGE = {"image": "image", "text": "\nRepresent the given page.\n"}
PUBLISHED: dict[str, Published] = {
    "vidore/colpali_train_set": Published(
        datasets.Features(
            {"image": datasets.Image()}
            | dict.fromkeys(
                ("image_filename", "query", "answer", "source", "options", "page", "model", "prompt", "answer_type"),
                STRING,
            )
        ),
        _rows(
            6,
            lambda row: {
                "image": stored(row, f"{row}.jpg"),
                "image_filename": f"images/{row}.jpg",
                "query": f"What does page {row} say?",
                "answer": f"['answer {row}']",
                "source": "docvqa",
                "options": None,
                "page": str(row),
                "model": None,
                "prompt": None,
                "answer_type": None,
            },
        ),
        {"train": "train-00000-of-00082.parquet"},
        {"query": "Find the page that answers: {query}", "positive": PAGE},
    ),
    "openbmb/VisRAG-Ret-Train-Synthetic-data": Published(
        datasets.Features({"query": STRING, "image": datasets.Image(), "source": STRING}),
        _rows(6, lambda row: {"query": f"What does slide {row} say?", "image": stored(row), "source": "textbooks"}),
        {"train": "train-00000-of-00264.parquet"},
        {"query": "Find the page that answers: {query}", "positive": PAGE},
    ),
    "intfloat/mmE5-synthetic": Published(
        datasets.Features(dict.fromkeys(MMEB, STRING)),
        _rows(
            6,
            lambda row: _mmeb(
                row,
                pos_text=f"<|image_1|>\nThing {row}",
                pos_image_path=f"images/{row}.jpg",
                neg_text=str([f"<|image_1|>\nThing {row + 1}"]),
                neg_image_path=str([f"images/{row + 1}.jpg"]),
            ),
        ),
        {"train": "train-00000-of-00001.parquet"},
    ),
    "intfloat/mmE5-MMEB-hardneg": Published(
        datasets.Features(dict.fromkeys(MMEB, STRING)),
        _rows(
            6,
            lambda row: _mmeb(
                row, neg_text=str([f"It's thing {other}" for other in (row + 1, row + 2)]), neg_image_path="['', '']"
            ),
        ),
        {"train": "train.jsonl"},
    ),
    "TIGER-Lab/MMEB-train": Published(
        datasets.Features(dict.fromkeys(MMEB, STRING)),
        _rows(6, _mmeb),
        {split: f"{split}-00000-of-00001.parquet" for split in ("original", "diverse_instruction", "train")},
    ),
}
