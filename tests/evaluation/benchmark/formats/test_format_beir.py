"""Visual documents as BEIR triples: graded answers, pictures as bytes inside parquet, and what can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_helpers import RecordingEncoder, constant_encoder
from huggingface_hub import constants
from mmeb_v2_data import picture, write_beir, write_rows
from PIL import Image

from llave_hf.evaluation import check_benchmark, evaluate_benchmark, load_benchmark
from llave_hf.evaluation.benchmark.fields import BenchmarkError

NAME = "ViDoSeek-page"
UNDERSTAND = "Understand the content of the provided document image."


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))


def evaluate(encoder: Any, data: Path, name: str = NAME) -> dict[str, Any]:
    benchmark = load_benchmark("mmeb-v2", data=data).select([name])
    return evaluate_benchmark(encoder, benchmark, show_progress=False).to_dict()["tasks"][name]


def ndcg_linear(order: list[int], relevance: dict[int, float], k: int) -> float:
    """The published definition: linear gains, log2 discounts, over the best order of the relevant documents."""

    def dcg(gains: list[float]) -> float:
        return sum(gain / np.log2(place + 2) for place, gain in enumerate(gains[:k]))

    return dcg([relevance.get(document, 0.0) for document in order]) / dcg(sorted(relevance.values(), reverse=True))


def vector(entry: Any) -> np.ndarray:
    """Random, by a question's number or a page's colour."""
    seed = entry["image"].getpixel((0, 0))[0] + 1000 if isinstance(entry, dict) else int(entry[-1])
    return np.random.default_rng(seed).standard_normal(4)


def test_linear_ndcg_is_the_published_one(tmp_path: Path) -> None:
    write_beir(tmp_path / NAME, pages=30)
    task = evaluate(RecordingEncoder(vector), tmp_path)
    documents = np.stack([vector({"image": Image.new("RGB", (1, 1), (n, 0, 0))}) for n in range(30)])
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    expected = []
    for number in range(4):
        order = np.argsort(-(documents @ vector(f"question {number}")))
        relevance = {page: 2.0 if page < 4 else 1.0 for page in range(number, 30, 4)}
        expected.append(ndcg_linear(order.tolist(), relevance, 5))
    assert 0.1 < np.mean(expected) < 0.9
    assert task["metric"] == "ndcg_at_5" and task["ndcg_at_5"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert (task["n"], task["candidates"], task["modality"]) == (4, 30, "visdoc")


def test_grades_count(tmp_path: Path) -> None:
    """The better page first is worth more: without grades the two orders would be worth the same."""
    write_beir(tmp_path / NAME)
    scores = []
    for better_first in (True, False):

        def two(entry: Any, better_first: bool = better_first) -> np.ndarray:
            page = isinstance(entry, dict)
            number = entry["image"].getpixel((0, 0))[0] if page else int(entry[-1])
            lesser = page and (number >= 4) == better_first
            return np.eye(5)[number % 4] + (0.5 * np.eye(5)[4] if lesser else 0)

        scores.append(evaluate(RecordingEncoder(two), tmp_path)["ndcg_at_5"])
    assert scores == [1.0, pytest.approx((1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3)), abs=1e-6)]


def test_prompts_and_pictures_are_those_of_the_rows(tmp_path: Path) -> None:
    write_beir(tmp_path / NAME)
    encoder = constant_encoder()
    evaluate(encoder, tmp_path)
    queries = [entry for entry in encoder.seen if isinstance(entry, str)]
    pages = [entry for entry in encoder.seen if not isinstance(entry, str)]
    assert sorted(queries) == [f"Find a document image that matches the given query: question {n}" for n in range(4)]
    assert {entry["text"] for entry in pages} == {f" {UNDERSTAND}"}
    assert sorted(entry["image"].getpixel((0, 0)) for entry in pages) == [(n, 100, 0) for n in range(8)]


def test_pictures_are_kept_once_by_content(tmp_path: Path) -> None:
    for name in (NAME, "MMLongBench-page"):
        write_beir(tmp_path / name)
    for _ in range(2):
        evaluate(constant_encoder(), tmp_path)
        evaluate(constant_encoder(), tmp_path, "MMLongBench-page")
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 8 and {path.suffix for path in kept} == {".png"}


def test_pictures_may_be_files(tmp_path: Path) -> None:
    write_beir(tmp_path / NAME, pages=4)
    (tmp_path / "pages").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "pages" / f"{number}.png")
    corpus = [{"corpus-id": n, "image": {"bytes": None, "path": f"pages/{n}.png"}} for n in range(4)]
    write_rows(tmp_path / NAME, "corpus", corpus)
    encoder = constant_encoder()
    evaluate(encoder, tmp_path)
    assert sum(not isinstance(entry, str) for entry in encoder.seen) == 4
    assert not (tmp_path / "cache").exists()


def own_benchmark(tmp_path: Path, **keys: Any) -> Path:
    write_beir(tmp_path / "eval" / "Pages")
    task = {
        "meta_task": "pages",
        "distribution": "out",
        "format": "beir",
        "metric": "ndcg_at_5",
        "query": "Find: {query}",
        "target": {"image": "{image}"},
    }
    content = {"name": "own", "source": "eval", "tasks": {"Pages": task | keys}}
    (tmp_path / "benchmark.yaml").write_text(json.dumps(content))
    return tmp_path / "benchmark.yaml"


def test_own_folder_with_a_filter_of_queries(tmp_path: Path) -> None:
    path = own_benchmark(tmp_path, where={"language": "english"})
    task = evaluate_benchmark(constant_encoder(), path, show_progress=False).to_dict()["tasks"]["Pages"]
    assert (task["n"], task["candidates"]) == (3, 8)
    path = own_benchmark(tmp_path, where={"lang": "english"})
    with pytest.raises(BenchmarkError, match="Pages, queries row 0 lacks the column 'lang' of 'where'"):
        check_benchmark(load_benchmark(path))


def test_documents_with_the_same_content_are_one_answer(tmp_path: Path) -> None:
    """No encoder could tell them apart; counted twice, a perfect encoder would score above 1."""
    path = own_benchmark(tmp_path, metric="precision_at_1")
    corpus = [{"corpus-id": n, "image": picture(n % 4)} for n in range(8)]
    write_rows(tmp_path / "eval" / "Pages", "corpus", corpus)

    def knows(entry: Any) -> np.ndarray:
        return np.eye(4)[entry["image"].getpixel((0, 0))[0] if isinstance(entry, dict) else int(entry[-1])]

    task = evaluate_benchmark(RecordingEncoder(knows), path, show_progress=False).to_dict()["tasks"]["Pages"]
    assert (task["precision_at_1"], task["candidates"]) == (1.0, 4)


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        (
            "qrels",
            [{"query-id": 0, "corpus-id": 77, "score": 1}],
            "qrels row 0: corpus-id: there is no document 77 in corpus",
        ),
        (
            "qrels",
            [{"query-id": 0, "corpus-id": 0, "score": 1}],
            "queries row 1: query-id: qrels has no relevant document for query 1",
        ),
        (
            "qrels",
            [{"query-id": 0, "corpus-id": 0, "score": 0}],
            "queries row 0: query-id: qrels has no relevant document for query 0",
        ),
        ("qrels", [{"query-id": 0, "corpus-id": 0, "score": "high"}], "qrels row 0: score must be a number"),
        ("queries", [{"query": "question 0"}], "queries row 0 lacks an id: query-id or query_id"),
        ("queries", [{"query-id": 0}], "queries row 0 lacks the column 'query'"),
        ("corpus", [{"corpus-id": 0}], "corpus row 0 lacks the column 'image'"),
        ("corpus", [{"corpus-id": 0, "image": {"bytes": b"no", "path": None}}], "corpus row 0: image: the bytes"),
        ("corpus", [{"corpus-id": 0, "image": {"bytes": None, "path": None}}], "image: the picture has neither"),
        (
            "corpus",
            [{"corpus-id": 0, "image": picture(0)}, {"corpus-id": 0, "image": picture(1)}],
            "corpus row 1: the id 0 is also another document's .Pages, corpus row 0",
        ),
    ],
)
def test_faults_name_subset_row_and_field(tmp_path: Path, table: str, rows: list, message: str) -> None:
    path = own_benchmark(tmp_path)
    write_rows(tmp_path / "eval" / "Pages", table, rows)
    with pytest.raises(BenchmarkError, match=f"Pages, .*{message}|^Pages, {message}"):
        check_benchmark(load_benchmark(path))


def test_missing_table_is_named(tmp_path: Path) -> None:
    path = own_benchmark(tmp_path)
    (tmp_path / "eval/Pages/qrels/test-00000-of-00001.parquet").unlink()
    with pytest.raises(BenchmarkError, match=r"Pages: there are no rows of split 'test' in .*Pages: expected qrels/"):
        check_benchmark(load_benchmark(path))


def test_unknown_queries_of_qrels_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = own_benchmark(tmp_path)
    table = tmp_path / "eval/Pages/qrels/test-00000-of-00001.parquet"
    rows = [*pq.read_table(table).to_pylist(), {"query-id": 9, "corpus-id": 0, "score": 1}]
    write_rows(tmp_path / "eval" / "Pages", "qrels", rows)
    check_benchmark(load_benchmark(path))
    assert "Pages: qrels has 1 queries that queries lacks (9, …)" in caplog.text


def test_local_ranking_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="Pages: pool must be global, not 'local'"):
        load_benchmark(own_benchmark(tmp_path, pool="local"))
