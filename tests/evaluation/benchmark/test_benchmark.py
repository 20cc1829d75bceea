from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from evaluation_helpers import make_row, write_benchmark

from llave_hf.evaluation.benchmark.benchmark import Task
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.loading import bundled_benchmarks, load_benchmark

ROWS = {"A": [make_row("q", ["right", "wrong"])], "B": [make_row("q", ["right", "wrong"])]}


def test_mmeb_is_bundled_and_complete() -> None:
    """FACTS of the paper: 36 subsets, 10 + 10 + 12 + 4, of which 20 in-distribution and 16 out."""
    assert "mmeb" in bundled_benchmarks()
    benchmark = load_benchmark("mmeb")
    assert (benchmark.source, benchmark.split, benchmark.media_root) == ("TIGER-Lab/MMEB-eval", "test", None)
    assert len({task.name for task in benchmark.tasks}) == len(benchmark.tasks) == 36
    meta_tasks = Counter(task.meta_task for task in benchmark.tasks)
    assert meta_tasks == {"classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4}
    assert Counter(task.distribution for task in benchmark.tasks) == {"in": 20, "out": 16}
    assert {(task.metric, task.pool) for task in benchmark.tasks} == {("precision_at_1", "local")}
    in_distribution = Counter(task.meta_task for task in benchmark.tasks if task.distribution == "in")
    assert in_distribution == {"classification": 5, "vqa": 6, "retrieval": 8, "grounding": 1}


def test_file_is_read_with_defaults_and_overrides(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, ROWS, {"B": {"metric": "recall_at_5", "pool": "global"}}, metric="ndcg_at_3")
    benchmark = load_benchmark(path)
    assert benchmark.tasks == (
        Task("A", "retrieval", "in", "ndcg_at_3", "local"),
        Task("B", "retrieval", "in", "recall_at_5", "global"),
    )
    assert benchmark.source == tmp_path / "eval"
    assert benchmark.media_root == tmp_path


def test_data_stands_in_for_the_folder_of_the_file(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_benchmark(elsewhere, ROWS)
    lonely = tmp_path / "lonely.yaml"
    lonely.write_text((elsewhere / "benchmark.yaml").read_text())
    with pytest.raises(BenchmarkError, match="source 'eval' is neither an existing folder"):
        load_benchmark(lonely)
    benchmark = load_benchmark(lonely, data=elsewhere)
    assert (benchmark.source, benchmark.media_root) == (elsewhere / "eval", elsewhere)
    assert load_benchmark("mmeb", data=elsewhere).media_root == elsewhere
    with pytest.raises(BenchmarkError, match=r"data folder .* does not exist"):
        load_benchmark("mmeb", data=tmp_path / "nowhere")


def test_without_media_pictures_lie_in_the_source_folder(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, ROWS)
    content = yaml.safe_load(path.read_text())
    del content["media"]
    path.write_text(yaml.safe_dump(content))
    assert load_benchmark(path).media_root == tmp_path / "eval"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metrics": "recall_at_1"}, "no key 'metrics'. Did you mean 'metric'"),
        ({"name": None}, "lacks 'name'"),
        ({"name": 7}, "name must be text, not 7"),
        ({"metric": "accuracy"}, "metric: There is no metric 'accuracy'"),
        ({"source": "no such folder"}, "neither an existing folder .* nor a Hub id"),
        ({"source": "../up"}, "neither an existing folder .* nor a Hub id"),
        ({"media": "pictures"}, "media: the folder .*pictures does not exist"),
        ({"tasks": {}}, "tasks must be a mapping .* at least one entry"),
        ({"tasks": {"A": None}}, "tasks: A must be a mapping"),
        ({"tasks": {"A": {"distribution": "in"}}}, "tasks: A lacks 'meta_task'"),
        ({"tasks": {"A": {"meta_task": "vqa"}}}, "tasks: A lacks 'distribution'"),
        (
            {"tasks": {"A": {"meta_task": "vqa", "distribution": "ood"}}},
            "A: distribution must be in or out or none, not 'ood'",
        ),
        (
            {"tasks": {"A": {"meta_task": "vqa", "distribution": "in", "pools": "x"}}},
            "no key 'pools'. Did you mean 'pool'",
        ),
        ({"tasks": {"A": {"meta_task": "vqa", "distribution": "in", "pool": "all"}}}, "pool must be local or global"),
        ({"tasks": {"A": {"meta_task": "overall", "distribution": "in"}}}, "'overall' is the name of a mean"),
        ({"tasks": {1: {"meta_task": "vqa", "distribution": "in"}}}, "the key 1 must be text"),
    ],
)
def test_faults_of_the_file_are_named(tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message) as raised:
        load_benchmark(write_benchmark(tmp_path, ROWS, **keys))
    assert "benchmark.yaml" in str(raised.value)


def test_faults_of_the_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"bundled benchmark 'mmeb-v9'. Did you mean 'mmeb-v2'"):
        load_benchmark("mmeb-v9")
    with pytest.raises(BenchmarkError, match=r"no benchmark file .*none.yaml"):
        load_benchmark(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(BenchmarkError, match="not valid YAML"):
        load_benchmark(tmp_path / "broken.yaml")
    (tmp_path / "broken.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(BenchmarkError, match=r"broken.yaml is not valid YAML: 'utf-8' codec"):
        load_benchmark(tmp_path / "broken.yaml")


def test_subsets_are_selected_in_the_order_of_the_file(tmp_path: Path) -> None:
    benchmark = load_benchmark(write_benchmark(tmp_path, ROWS))
    assert [task.name for task in benchmark.select(["B", "A"]).tasks] == ["A", "B"]
    assert [task.name for task in benchmark.select(["B"]).tasks] == ["B"]
    assert benchmark.select(None) is benchmark
    with pytest.raises(BenchmarkError, match="no subset 'C'"):
        benchmark.select(["A", "C"])
    with pytest.raises(BenchmarkError, match="at least one"):
        benchmark.select([])
