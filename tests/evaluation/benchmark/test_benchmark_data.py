"""A benchmark is data: made in Python, read from a mapping or from a file, its rows are collected alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluation_helpers import make_row, write_benchmark

from llave_hf.evaluation.benchmark.benchmark import Benchmark, Task
from llave_hf.evaluation.benchmark.collection import check_benchmark, collect_inputs
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.file import build_benchmark
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.evaluation.benchmark.rows import RowReader

ROWS = {"A": [make_row("q", ["right", "wrong"]), make_row("p", ["wrong", "other"])]}


class RowsInMemory(RowReader):
    """Rows that lie in no file."""

    def read(self, task: Task, table: str | None = None) -> Iterator[dict[str, Any]]:
        yield from ROWS[task.name]


def test_a_benchmark_made_in_python_needs_no_file() -> None:
    benchmark = Benchmark("mine", "owner/rows", (Task("A", "retrieval", "in", pool="global"),))
    inputs, (task,) = collect_inputs(benchmark, RowsInMemory(benchmark))
    assert [sample.text for sample in inputs.samples] == ["q", "right", "wrong", "p", "other"]
    np.testing.assert_array_equal(task.queries, [0, 3])
    np.testing.assert_array_equal(task.answers, [1, 2])
    np.testing.assert_array_equal(task.pools, [[1, 2, 4]])


def test_a_benchmark_is_selected_and_never_changed() -> None:
    tasks = tuple(Task(name, "retrieval", "in") for name in "AB")
    benchmark = Benchmark("mine", "owner/rows", tasks)
    assert benchmark.select(["B"]) == Benchmark("mine", "owner/rows", tasks[1:])
    assert benchmark.tasks == tasks
    with pytest.raises(FrozenInstanceError):
        benchmark.name = "other"  # type: ignore[misc]
    with pytest.raises(BenchmarkError, match="mine has no subset 'C'"):
        benchmark.select(["C"])


def test_file_and_mapping_give_the_same_benchmark(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, ROWS, metric="recall_at_5")
    content = yaml.safe_load(path.read_text())
    built = build_benchmark(content, "in memory", tmp_path, tmp_path, data_given=False)
    assert built == load_benchmark(path)
    with pytest.raises(BenchmarkError, match="in memory: metric: There is no metric 'accuracy'"):
        build_benchmark(content | {"metric": "accuracy"}, "in memory", tmp_path, tmp_path, data_given=False)


def test_check_reads_rows_and_looks_for_files(tmp_path: Path) -> None:
    rows = ROWS | {"Pictures": [make_row("<|image_1|>", ["a", "b"], image="gone.png")]}
    benchmark = load_benchmark(write_benchmark(tmp_path, rows))
    check_benchmark(benchmark, ["A"])
    with pytest.raises(BenchmarkError, match=r"Pictures, row 0: .*gone.png does not exist"):
        check_benchmark(benchmark)
