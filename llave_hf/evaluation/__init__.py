"""Fair evaluation: benchmarks as data, every distinct input encoded once, ties scored by expectation."""

from __future__ import annotations

from .benchmark import Benchmark, BenchmarkError, Task, bundled_benchmarks, load_benchmark
from .comparison import Comparison, compare_results
from .evaluate import evaluate_benchmark
from .modules import module_path
from .report_page import PageOptions
from .results import BenchmarkResults, TaskResult

__all__ = [
    "Benchmark",
    "BenchmarkError",
    "BenchmarkResults",
    "Comparison",
    "PageOptions",
    "Task",
    "TaskResult",
    "bundled_benchmarks",
    "compare_results",
    "evaluate_benchmark",
    "load_benchmark",
    "module_path",
]
