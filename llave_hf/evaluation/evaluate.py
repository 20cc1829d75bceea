"""Evaluates an encoder on a benchmark: rows, distinct inputs, vectors, ranks, results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from llave_hf import distributed

from .benchmark import Benchmark, load_benchmark
from .inputs import collect_inputs
from .report import write_report
from .results import BenchmarkResults, TaskResult
from .retrieval import Encoder, encode_inputs, normalise, rank_task
from .rows import RowReader

logger = logging.getLogger(__name__)


def evaluate_benchmark(
    model: Encoder | str | os.PathLike[str],
    benchmark: Benchmark | str | os.PathLike[str],
    *,
    output_dir: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    show_progress: bool = True,
    subsets: Iterable[str] | None = None,
    model_name: str | None = None,
) -> BenchmarkResults:
    """Score an encoder on a benchmark; with several ranks each encodes a share, and every rank gets the results.

    Rows and files are read and checked before the model is loaded and anything is encoded.

    Args:
        model: a model folder or Hub id, or an object with sentence-transformers' `encode`.
        benchmark: a YAML file, the name of a bundled benchmark, or a loaded one.
        output_dir: where the first rank writes `results.json`, `results.md` and `results.png`; None: nowhere.
        data: folder that stands in for the benchmark file's own (see :func:`load_benchmark`).
        batch_size: inputs that the encoder takes at once.
        subsets: names of the subsets to evaluate; None: all. Means are then over these alone.
        model_name: how the results call the model; None: its folder, id or class.

    Raises:
        BenchmarkError: the benchmark file or its data cannot be used.
        ValueError: the encoder does not return finite vectors, or `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    if isinstance(benchmark, Benchmark):
        whole = benchmark
    else:
        whole = load_benchmark(Path(benchmark), None if data is None else Path(data))
    selected = whole.select(subsets)
    reader = RowReader(selected)
    inputs, tasks = collect_inputs(selected, reader)
    encoder = _load(model) if isinstance(model, (str, os.PathLike)) else model
    logger.info("%s: %d distinct inputs in %d subsets.", selected.name, len(inputs), len(tasks))
    start = time.perf_counter()
    embeddings = encode_inputs(encoder, inputs, batch_size=batch_size, show_progress=show_progress)
    encoded = time.perf_counter()
    vector_ids = normalise(embeddings)
    results = BenchmarkResults(
        model=model_name or _name(model),
        benchmark=selected.name,
        revision=reader.revision,
        tasks=tuple(TaskResult(task.task, rank_task(task, embeddings, vector_ids), task.duplicates) for task in tasks),
        missing=tuple(task.name for task in whole.tasks if task not in selected.tasks),
    )
    logger.info("Encoded in %.1f s, scored in %.1f s.", encoded - start, time.perf_counter() - encoded)
    if output_dir is not None and distributed.rank() == 0:
        write_report(results.to_dict(), Path(output_dir))
    return results


def _load(path: str | os.PathLike[str]) -> Encoder:
    from llave_hf.sentence_transformer import load_encoder

    return load_encoder(os.fspath(path))


def _name(model: Encoder | str | os.PathLike[str]) -> str:
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    return type(model).__name__
