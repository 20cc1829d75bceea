"""Evaluates an encoder on a benchmark: rows, distinct inputs, vectors, ranks, results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llave_hf import distributed
from llave_hf.data.vectors.store import VectorStore
from llave_hf.encoding.model_identity import ModelIdentity, identify, path_revision
from llave_hf.errors import UserError
from llave_hf.evaluation.benchmark.benchmark import Benchmark
from llave_hf.evaluation.benchmark.collection import collect_inputs
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.evaluation.benchmark.rows import RowReader
from llave_hf.evaluation.report.files import write_json, write_report
from llave_hf.evaluation.report.leaderboard import LEADERBOARD_FILE, leaderboard
from llave_hf.evaluation.report.page import DEFAULTS, PAGE_FILE, PageOptions, render_page
from llave_hf.evaluation.report.training_weights import training_weights
from llave_hf.evaluation.retrieval.retrieval import normalise, score_tasks
from llave_hf.evaluation.retrieval.vectors import Encoder, encode_inputs
from llave_hf.runtime.places import check_model, check_output_folder

from .results import BenchmarkResults, TaskResult, write_per_query

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
    model_revision: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    page: PageOptions = DEFAULTS,
) -> BenchmarkResults:
    """Score an encoder on a benchmark; with several ranks each encodes a share, and every rank gets the results.

    Rows and files are read and checked before the model is loaded and anything is encoded.

    Args:
        model: a model folder or Hub id, or an object with sentence-transformers' `encode`.
        benchmark: a YAML file, the name of a bundled benchmark, or a loaded one.
        output_dir: where the first rank writes `results.json`, `results.md`, `results.png`, `report.html` and
            `per_query.safetensors`, and `leaderboard.json` where the benchmark asks for it; None: nowhere.
        data: folder that stands in for the benchmark file's own (see :func:`load_benchmark`).
        batch_size: inputs that the encoder takes at once.
        subsets: names of the subsets to evaluate; None: all. Means are then over these alone.
        model_name: how the results call the model; None: its folder, id or class.
        model_revision: what tells its weights and settings from others'; None: a Hub commit, or a digest of the
            folder's files or of the weights in memory. Only an object that is no torch module has none by itself.
        cache: folder that keeps every vector by content and model: a stopped run goes on, another benchmark finds
            what they share. All ranks must see it. None: nothing is kept.
        dtype: what a model that is opened here computes in; None: see :func:`load_encoder`.
        page: what `report.html` shows.

    Raises:
        BenchmarkError: the benchmark file or its data cannot be used.
        UserError: the model cannot be opened, `output_dir` or `cache` cannot be written to, or `cache` is given for a
            model whose weights cannot be told from others', without `model_revision`.
        ValueError: the encoder does not return finite vectors, or `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    check_places(model, output_dir, cache)
    if isinstance(benchmark, Benchmark):
        whole = benchmark
    else:
        whole = load_benchmark(Path(benchmark), None if data is None else Path(data))
    selected = whole.select(subsets)
    reader = RowReader(selected)
    inputs, tasks = collect_inputs(selected, reader)
    encoder, identity = open_encoder(model, model_revision, dtype)
    store = None if cache is None else open_store(Path(cache), identity)
    logger.info("%s: %d distinct inputs in %d subsets.", selected.name, len(inputs), len(tasks))
    start = time.perf_counter()
    embeddings = encode_inputs(encoder, inputs, batch_size=batch_size, show_progress=show_progress, store=store)
    encoded = time.perf_counter()
    scored = score_tasks(tasks, embeddings, normalise(embeddings), show_progress=show_progress)
    results = BenchmarkResults(
        model=model_name or name_of(model),
        benchmark=selected.name,
        revision=reader.revision,
        tasks=tuple(TaskResult(task, *found) for task, found in zip(tasks, scored, strict=True)),
        missing=tuple(task.name for task in whole.tasks if task not in selected.tasks),
        identity=identity,
        leaderboard=selected.leaderboard,
    )
    logger.info("Encoded in %.1f s, scored in %.1f s.", encoded - start, time.perf_counter() - encoded)
    if output_dir is not None and distributed.rank() == 0:
        write_report(results.to_dict(), Path(output_dir))
        write_per_query(results, Path(output_dir))
        shown = replace(page, weights=page.weights or training_weights(model))
        (Path(output_dir) / PAGE_FILE).write_text(render_page(results, inputs, shown), encoding="utf-8")
        if results.leaderboard:
            write_json(leaderboard(results, encoder, embeddings.shape[1]), Path(output_dir) / LEADERBOARD_FILE)
    return results


def check_places(
    model: Encoder | str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None,
    cache: str | os.PathLike[str] | None,
) -> None:
    """Raise a UserError where the model is not there, or results or vectors could not be written."""
    for folder, what in ((output_dir, "The output folder"), (cache, "The cache")):
        if folder is not None:
            check_output_folder(folder, what)
    check_model(model)


def open_encoder(
    model: Encoder | str | os.PathLike[str], revision: str | None, dtype: str | None = None
) -> tuple[Encoder, ModelIdentity]:
    """The encoder behind a folder, a Hub id or an object, and its identity; `revision` where the caller knows it."""
    from llave_hf.encoding.sentence_transformer import load_encoder

    if not isinstance(model, (str, os.PathLike)):
        return model, identify(model, revision)
    try:
        encoder = load_encoder(os.fspath(model), **({"dtype": dtype} if dtype else {}))
    except OSError as error:
        raise UserError(f"The model {os.fspath(model)} cannot be opened: {error}") from error
    return encoder, identify(encoder, revision or path_revision(model))


def open_store(folder: Path, identity: ModelIdentity) -> VectorStore:
    """The vectors that a cache has of a model.

    Raises:
        UserError: the model's weights cannot be told from others', or the cache cannot be read.
    """
    if identity.revision is None:
        raise UserError(
            "A cache needs to know which model made a vector, and this encoder is no torch module whose weights could "
            "be compared: give model_revision, a text that is another for every other model."
        )
    return VectorStore(folder, identity.vectors())


def name_of(model: Encoder | str | os.PathLike[str]) -> str:
    """What results call a model: its folder or id as given, or its class."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    return type(model).__name__
