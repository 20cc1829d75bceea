"""The approximate index against the exact search."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from llave_hf.search.store import Store, rows_of

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")


def filled(folder: Path, vectors: np.ndarray) -> Store:
    store = Store(str(folder))
    store.create({}, vectors.shape[1])
    add(store, vectors, 0)
    return store


def add(store: Store, vectors: np.ndarray, first: int) -> None:
    entries = [
        {"root": "/r", "path": f"{number}.png", "modified": number, "digest": str(number), "kind": "image", "part": 0}
        for number in range(first, first + len(vectors))
    ]
    store.replace("/r", [], rows_of(entries, vectors, store.schema), [])


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def recall(store: Store, queries: np.ndarray, k: int = 10) -> float:
    shares = []
    for query in queries:
        exact, found = ({row["path"] for row in store.nearest(query, k, None, exact)} for exact in (True, False))
        shares.append(len(exact & found) / k)
    return float(np.mean(shares))


@pytest.mark.parametrize("dimension", [64, 60])
def test_the_index_finds_what_the_exact_search_finds(tmp_path: Path, dimension: int) -> None:
    generator = np.random.default_rng(0)
    vectors = unit(generator, 3000, dimension)
    store = filled(tmp_path, vectors)
    queries = unit(generator, 20, dimension)
    brute = (queries @ vectors.T).argsort(1)[:, ::-1][:, :10]
    exact = [[int(row["path"][:-4]) for row in store.nearest(query, 10, None, True)] for query in queries]
    assert exact == brute.tolist()
    assert not store.tidy(ann_from=3001)
    assert store.tidy(ann_from=3000)
    assert recall(store, queries) > 0.9
    best = store.nearest(queries[0], 1, None, False)[0]
    assert 1 - best["_distance"] == pytest.approx(float(queries[0] @ vectors[int(best["path"][:-4])]), abs=1e-5)


def test_the_index_sees_new_and_removed_rows_and_filters(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    store = filled(tmp_path, unit(generator, 600, 16))
    assert store.tidy(ann_from=600)
    fresh = unit(generator, 1, 16)
    add(store, fresh, 600)  # before the index is brought up to date
    assert store.nearest(fresh[0], 1, None, False)[0]["path"] == "600.png"
    store.tidy(ann_from=600)
    assert store.nearest(fresh[0], 1, None, False)[0]["path"] == "600.png"
    assert [row["path"] for row in store.nearest(fresh[0], 5, "modified = 7", False)] == ["7.png"]
    store.remove("/r", ["600.png"])
    assert "600.png" not in {row["path"] for row in store.nearest(fresh[0], 5, None, False)}
    store.remove("/r", [f"{number}.png" for number in range(500)])
    assert not store.tidy(ann_from=600)  # small again


@pytest.mark.slow
def test_a_hundred_thousand_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Queries at a cosine of about 0.9 to one of them; `pytest -s` shows the times."""
    generator = np.random.default_rng(0)
    vectors = unit(generator, 100_000, 128)
    store = filled(tmp_path, vectors)
    queries = vectors[:20] + 0.5 * unit(generator, 20, 128)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    started = time.monotonic()
    assert store.tidy(ann_from=100_000)
    seconds = {"build": time.monotonic() - started}
    for name, exact in (("exact", True), ("approximate", False)):
        store.nearest(queries[0], 10, None, exact)
        started = time.monotonic()
        for query in queries:
            store.nearest(query, 10, None, exact)
        seconds[name] = (time.monotonic() - started) / len(queries)
    found = recall(store, queries)
    with capsys.disabled():
        print(f" {found=:.2f}", {name: round(value, 4) for name, value in seconds.items()})  # noqa: T201
    assert found > 0.9
