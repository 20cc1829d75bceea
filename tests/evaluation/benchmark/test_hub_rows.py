"""A parquet file that `datasets` wrote with a column of pictures: it trains, and benchmarks read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets.table import embed_table_storage
from PIL import Image

from llave_hf.data import load_pairs, load_sample, stream_pairs
from llave_hf.evaluation import evaluate_benchmark

BENCHMARK = """
name: hub
source: eval
media: .
split: test
metric: precision_at_1
tasks:
  Described:
    meta_task: retrieval
    distribution: in
    format: pairs
    query: "Find: {caption}"
    target: {image: picture}
  Mmeb:
    meta_task: vqa
    distribution: in
"""


class Colours:
    """Embeds a picture by its red level, a text by the number in it."""

    def encode(self, inputs: Sequence[Any], **_: Any) -> np.ndarray:
        levels = [
            int("".join(filter(str.isdigit, one))) if isinstance(one, str) else one["image"].getpixel((0, 0))[0] // 20
            for one in inputs
        ]
        return np.stack([np.cos(levels), np.sin(levels)], axis=1).astype(np.float32)


def as_pushed(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows as `push_to_hub` writes them: with the files' bytes."""
    return rows.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    paths = []
    for level in range(4):
        paths.append(str(tmp_path / f"{level}.png"))
        Image.new("RGB", (8, 8), (level * 20, 0, 0)).save(paths[-1])
    captions = [f"picture {level}" for level in range(4)]
    rows = datasets.Dataset.from_dict({"caption": captions, "picture": paths})
    rows = as_pushed(rows.cast_column("picture", datasets.Image()))
    for name in ("train.parquet", "eval/Described/test.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(tmp_path / name)
    questions = {"qry_text": [""] * 4, "qry_img_path": paths}
    questions |= {"tgt_text": [[captions[level], "9"] for level in range(4)], "tgt_img_path": [["", ""]] * 4}
    mmeb = as_pushed(datasets.Dataset.from_dict(questions).cast_column("qry_img_path", datasets.Image()))
    (tmp_path / "eval/Mmeb").mkdir()
    mmeb.to_parquet(tmp_path / "eval/Mmeb/test.parquet")
    for path in paths:
        Path(path).unlink()  # they are in the tables
    return tmp_path


def test_it_trains(root: Path) -> None:
    entry = {"path": str(root / "train.parquet"), "query": "{caption}", "positive": {"image": "picture"}}
    for load in (load_pairs, stream_pairs):
        pairs = load([entry])
        levels = [load_sample(pairs[row].positive)["images"][0].getpixel((0, 0)) for row in range(4)]
        assert levels == [(level * 20, 0, 0) for level in range(4)]


def test_it_evaluates(root: Path) -> None:
    (root / "b.yaml").write_text(BENCHMARK)
    results = evaluate_benchmark(Colours(), str(root / "b.yaml"), model_revision="1")
    assert {one.task.name: one.to_dict()["precision_at_1"] for one in results.tasks} == {"Described": 1.0, "Mmeb": 1.0}
