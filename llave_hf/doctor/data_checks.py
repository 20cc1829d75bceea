"""What may be wrong with the training data: rows that repeat, tasks smaller than a batch, files that do not open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llave_hf.data.media import load_sample
from llave_hf.data.rows.labels import hardness_of
from llave_hf.data.samples import Pair
from llave_hf.data.streaming.tasks import StreamedPairs, TrainingPairs
from llave_hf.model.media_llave import MediaError
from llave_hf.training.objective.objective import hardness_columns
from llave_hf.training.recipe.best_metric import check_metric
from llave_hf.training.recipe.recipe import Recipe
from llave_hf.training.run import load_eval_benchmark, load_training_pairs

from .findings import NOTE, OK, PROBLEM, Finding, Patient

FAST_ROWS = 200  # a task
NAMED = 3  # culprits that a line lists


def open_data(recipe: Recipe) -> tuple[TrainingPairs | None, list[Finding]]:
    """The training rows and the benchmark, each with all the checks that training would make."""
    findings = []
    dataset = None
    try:
        dataset = load_training_pairs(recipe.data, use_negatives=recipe.training.use_negatives)
        text = f"{len(dataset):,} rows of {len(dataset.sources)} tasks; "
        if isinstance(dataset, StreamedPairs):
            text += "streamed: rows and files are checked as they are read"
        else:
            text += "no row is empty, every file exists"
        findings.append(Finding(OK, "data", text))
    except (ValueError, OSError) as error:
        findings.append(Finding(PROBLEM, "data", str(error)))
    try:
        benchmark = load_eval_benchmark(recipe.data)
        if benchmark is not None:
            text = f"benchmark {benchmark.name}: {len(benchmark.tasks)} subsets, every file exists"
            findings.append(Finding(OK, "data", text))
            benchmark = benchmark.select(recipe.data.eval_subsets)
        check_metric(recipe.training, benchmark)
    except (ValueError, OSError) as error:
        findings.append(Finding(PROBLEM, "data", str(error)))
    return dataset, findings


def check_data(patient: Patient) -> Iterator[Finding]:
    """Duplicates, tasks smaller than a batch, files that do not open, columns that a setting needs."""
    dataset, args = patient.dataset, patient.recipe.training
    if dataset is None:
        return
    batch = args.per_device_train_batch_size * patient.devices
    level = PROBLEM if args.on_bad_sample == "raise" else NOTE
    columns = hardness_columns(args)
    without: list[str] = []
    for source in dataset.sources:
        pairs = _Looked(dataset, _rows(source.start, len(source), patient.fast))
        if len(source) < batch and args.batch_tasks == "one":
            text = f"{source.name} has {len(source)} rows, fewer than a batch of {batch}: none of them is trained on"
            yield Finding(PROBLEM, "data", text)
        try:
            yield from _duplicates(source.name, pairs)
            yield from _broken_files(source.name, pairs, level)
            if args.use_negatives and not any(pair.negatives for pair in pairs):
                without.append(source.name)
            for pair in pairs if columns else ():
                hardness_of([pair], columns, len(pair.negatives))
        except ValueError as error:  # a row of a stream, which is checked only now, or one without hardness
            yield Finding(PROBLEM, "data", str(error))
    if without:
        level = PROBLEM if len(without) == len(dataset.sources) else NOTE
        yield Finding(level, "data", f"use_negatives is on, but no row looked at has negatives: {', '.join(without)}")


@dataclass(frozen=True)
class _Looked:
    """Some rows, read when they are looked at."""

    dataset: TrainingPairs
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Pair]:
        return (self.dataset[row] for row in self.rows)


def _rows(start: int, count: int, fast: bool) -> Sequence[int]:
    if not fast or count <= FAST_ROWS:
        return range(start, start + count)
    return (start + np.linspace(0, count - 1, FAST_ROWS, dtype=int)).tolist()


def _duplicates(name: str, pairs: _Looked) -> Iterator[Finding]:
    whole = Counter((pair.query.key(), pair.positive.key()) for pair in pairs)
    repeated = sum(count - 1 for count in whole.values())
    documents = len({document for _, document in whole})
    if repeated:
        yield Finding(NOTE, "data", f"{name}: {repeated} of {len(pairs)} rows looked at repeat another row")
    if documents < len(pairs) / 2:
        text = (
            f"{name}: {documents} distinct documents in {len(pairs)} rows; equal ones are no negatives of each other"
        )
        yield Finding(NOTE, "data", text)


def _broken_files(name: str, pairs: _Looked, level: str) -> Iterator[Finding]:
    broken: list[str] = []
    seen = set()
    for pair in pairs:
        for sample in (pair.query, pair.positive, *pair.negatives):
            if sample in seen or not (sample.images or sample.video):
                continue
            seen.add(sample)
            try:
                load_sample(sample, num_frames=1)
            except MediaError as error:
                broken.append(f"row {pair.row}: {error}")
    if broken:
        rest = f" (and {len(broken) - NAMED} more)" if len(broken) > NAMED else ""
        yield Finding(level, "data", f"{name}: {len(broken)} files do not open: {'; '.join(broken[:NAMED])}{rest}")
    elif seen:
        yield Finding(OK, "data", f"{name}: {len(seen)} samples with pictures or videos opened")
