"""Fair evaluation: benchmarks as data, every distinct input encoded once, ties scored by expectation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llave_hf.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from .benchmark.benchmark import Benchmark, Task
    from .benchmark.collection import check_benchmark
    from .benchmark.fields import BenchmarkError
    from .benchmark.loading import bundled_benchmarks, load_benchmark
    from .comparison import Comparison, compare_results
    from .evaluate import evaluate_benchmark
    from .modules import module_path
    from .report.page import PageOptions
    from .results import BenchmarkResults, TaskResult
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Benchmark": "benchmark.benchmark",
            "BenchmarkError": "benchmark.fields",
            "BenchmarkResults": "results",
            "Comparison": "comparison",
            "PageOptions": "report.page",
            "Task": "benchmark.benchmark",
            "TaskResult": "results",
            "bundled_benchmarks": "benchmark.loading",
            "check_benchmark": "benchmark.collection",
            "compare_results": "comparison",
            "evaluate_benchmark": "evaluate",
            "load_benchmark": "benchmark.loading",
            "module_path": "modules",
        },
    )

__all__ = [
    "Benchmark",
    "BenchmarkError",
    "BenchmarkResults",
    "Comparison",
    "PageOptions",
    "Task",
    "TaskResult",
    "bundled_benchmarks",
    "check_benchmark",
    "compare_results",
    "evaluate_benchmark",
    "load_benchmark",
    "module_path",
]
