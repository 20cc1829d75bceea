"""A benchmark's subsets as tasks of mteb, with the scores of :func:`llave_hf.evaluation.evaluate_benchmark`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata

from llave_hf.evaluation.benchmark.benchmark import Benchmark, Task
from llave_hf.evaluation.benchmark.collection import collect_inputs
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.evaluation.benchmark.rows import RowReader
from llave_hf.evaluation.evaluate import evaluate_benchmark
from llave_hf.evaluation.results import TaskResult
from llave_hf.evaluation.retrieval.vectors import Encoder

from .foreign import ForeignModel
from .model import LlaveMtebModel
from .task_metadata import describe

BATCH_SIZE = 32  # mteb's


def mmeb_tasks(
    benchmark: Benchmark | str | os.PathLike[str] = "mmeb",
    *,
    data: str | os.PathLike[str] | None = None,
    subsets: Iterable[str] | None = None,
    modalities: Sequence[str] | None = None,
    languages: Sequence[str] = ("eng-Latn",),
    cache: str | os.PathLike[str] | None = None,
) -> list[AbsTask]:
    """A task of mteb for each subset; rows and files are read when it runs.

    mteb keeps results by the names of model and task: after a change of local data, evaluate with
    `overwrite_strategy="always"` or `cache=None`.

    Args:
        benchmark: A YAML file, the name of a bundled benchmark, or a loaded one.
        data: Folder that stands in for the benchmark file's own (see :func:`load_benchmark`).
        subsets: Names; None: all.
        modalities: What the rows hold, where it is not text and pictures (and videos in meta-tasks called so).
        languages: Of the texts.
        cache: Folder of vectors (see :func:`evaluate_benchmark`), by which subsets share what they have in common;
            for a :class:`LlaveMtebModel` of a torch module alone.

    Raises:
        BenchmarkError: The benchmark file cannot be used.
    """
    if not isinstance(benchmark, Benchmark):
        benchmark = load_benchmark(Path(benchmark), None if data is None else Path(data))
    return [
        _task(benchmark, task, describe(benchmark, task, modalities, languages), cache)
        for task in benchmark.select(subsets).tasks
    ]


class MmebTask(AbsTask):
    """One subset: each query's candidates ranked, ties counted by expectation; made by :func:`mmeb_tasks`.

    The rows bring their instructions: a :class:`LlaveMtebModel` adds none but its encoder's own default prompt, as
    outside of mteb.
    """

    metadata: TaskMetadata
    abstask_prompt = ""  # the rows' own
    benchmark: Benchmark  # with this subset alone
    cache: str | os.PathLike[str] | None

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Nothing yet: rows are read and checked by the evaluation, before anything is encoded."""
        self.dataset = {self.metadata.eval_splits[0]: self.benchmark}
        self.data_loaded = True

    def _evaluate_subset(
        self,
        model: Any,
        data_split: Benchmark,
        *,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: dict[str, Any],
        prediction_folder: Path | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        options = {"show_progress_bar": True, "batch_size": BATCH_SIZE, **encode_kwargs}
        show_progress, batch_size = options.pop("show_progress_bar"), options.pop("batch_size")
        encoder, revision = self._encoder(model, hf_split, hf_subset, options)
        results = evaluate_benchmark(
            encoder,
            data_split,
            batch_size=batch_size,
            show_progress=show_progress,
            model_revision=revision,
            cache=self.cache,
        )
        # the class keeps the metadata without a revision, to which mteb returns when it unloads the data
        dataset = {**self.metadata.dataset, "revision": results.revision or self.metadata.dataset["revision"]}
        self.metadata = self.metadata.model_copy(update={"dataset": dataset})
        result = results.tasks[0]
        if prediction_folder is not None:
            scores = result.per_query.tolist()
            self._save_task_predictions(scores, model, prediction_folder, hf_split, hf_subset)
        return _scores(result)

    def _encoder(self, model: Any, split: str, subset: str, options: dict[str, Any]) -> tuple[Encoder, str | None]:
        """What evaluation is given, and by what a cache knows its vectors; None: it refuses them."""
        if not isinstance(model, LlaveMtebModel):
            return ForeignModel(model, self.metadata, split, subset, options), None
        return (_WithOptions(model.model, options), None) if options else (model.model, model.identity.revision)

    def _calculate_descriptive_statistics_from_split(self, split: str, **_: Any) -> dict[str, int]:
        inputs, (task,) = collect_inputs(self.benchmark, RowReader(self.benchmark))
        queries, candidates = len(task.queries), int(task.candidates.sum())
        return {"num_samples": queries, "num_documents": candidates, "num_distinct_inputs": len(inputs)}


class _WithOptions:
    """An encoder with further arguments of its own for each call."""

    def __init__(self, encoder: Any, options: dict[str, Any]) -> None:
        self._encoder = encoder
        self._options = options

    def encode(self, inputs: list[Any], /, *, batch_size: int, show_progress_bar: bool) -> Any:
        return self._encoder.encode(
            inputs, batch_size=batch_size, show_progress_bar=show_progress_bar, **self._options
        )


def _task(benchmark: Benchmark, task: Task, metadata: TaskMetadata, cache: str | os.PathLike[str] | None) -> AbsTask:
    """A class of its own, as mteb looks for the metadata in the class."""
    fields = {
        "metadata": metadata,
        "benchmark": benchmark.select([task.name]),
        "cache": cache,
        "__doc__": MmebTask.__doc__,
    }
    return type(f"MmebTask_{task.name}", (MmebTask,), fields)()


def _scores(result: TaskResult) -> dict[str, float]:
    """The numbers of the subset's entry in `results.json`."""
    entry = result.to_dict()
    kept = {name: value for name, value in entry.items() if isinstance(value, (int, float))}
    (low, high), (lost, won) = entry["ci95"], entry["bounds"]
    return {**kept, "ci95_low": low, "ci95_high": high, "ties_lost": lost, "ties_won": won}
