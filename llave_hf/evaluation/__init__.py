"""Fair evaluation: benchmarks as data, every distinct input encoded once, ties scored by expectation."""

from __future__ import annotations

from .benchmark import Benchmark, BenchmarkError, Task, bundled_benchmarks, load_benchmark
from .evaluate import evaluate_benchmark
from .results import BenchmarkResults, TaskResult

__all__ = [
    "Benchmark",
    "BenchmarkError",
    "BenchmarkResults",
    "Task",
    "TaskResult",
    "bundled_benchmarks",
    "evaluate_benchmark",
    "load_benchmark",
]
