"""Small benchmarks and encoders for the evaluation tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from llave_hf.evaluation.retrieval import retrieval, vectors

Row = dict[str, Any]


def make_row(
    query: str, targets: Sequence[str], *, image: str = "", target_images: Sequence[str] | None = None
) -> Row:
    return {
        "qry_text": query,
        "qry_img_path": image,
        "tgt_text": list(targets),
        "tgt_img_path": list(target_images) if target_images is not None else [""] * len(targets),
    }


def write_benchmark(
    folder: Path, subsets: dict[str, list[Row]], options: dict[str, Row] | None = None, **keys: Any
) -> Path:
    """A benchmark in a folder: `benchmark.yaml`, `eval/<subset>/test-*.parquet`; pictures lie beside them."""
    for name, rows in subsets.items():
        (folder / "eval" / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "eval" / name / "test-00000-of-00001.parquet")
    default = {"meta_task": "retrieval", "distribution": "in"}
    content = {
        "name": "small",
        "source": "eval",
        "media": ".",
        "split": "test",
        "tasks": {name: default | (options or {}).get(name, {}) for name in subsets},
    }
    path = folder / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content | keys, sort_keys=False))
    return path


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class RecordingEncoder:
    """Vectors from a function of (kind, text or first pixel); remembers what it was given."""

    def __init__(self, vector: Callable[[Any], Sequence[float]]) -> None:
        self.vector = vector
        self.seen: list[Any] = []
        self.batches: list[int] = []

    def encode(self, inputs: list[Any], **_: Any) -> np.ndarray:
        self.seen += inputs
        self.batches.append(len(inputs))
        return np.array([self.vector(entry) for entry in inputs], dtype=np.float32)


def constant_encoder(dimensions: int = 768) -> RecordingEncoder:
    vector = np.linspace(-1, 1, dimensions)
    return RecordingEncoder(lambda _: vector)


def random_encoder(seed: int = 0, dimensions: int = 64) -> RecordingEncoder:
    generator = np.random.default_rng(seed)
    return RecordingEncoder(lambda _: generator.standard_normal(dimensions))


def one_hot(text: str, known: Sequence[str]) -> np.ndarray:
    return np.eye(len(known))[list(known).index(text)]


def run_ranks(world_size: int, work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Run `work` as several ranks (threads) that can gather objects; return each one's result or exception."""
    local, barrier, shared = threading.local(), threading.Barrier(world_size), [None] * world_size

    class FakeDistributed:
        rank = staticmethod(lambda: local.rank)
        world_size = staticmethod(lambda: world_size)

        @staticmethod
        def all_gather_object(value: Any) -> list[Any]:
            shared[local.rank] = value
            barrier.wait(timeout=10)
            values = list(shared)
            barrier.wait(timeout=10)  # nobody writes before all have read
            return values

    results: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        local.rank = rank
        try:
            results[rank] = work()
        except Exception as error:
            results[rank] = error

    for module in (retrieval, vectors):
        monkeypatch.setattr(module, "distributed", FakeDistributed)
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    return results
