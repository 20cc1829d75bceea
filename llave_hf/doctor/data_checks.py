"""What may be wrong with the training data, found by the checks of `llave data`, and what a setting asks of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llave_hf.data.look.pictures import broken_files, open_samples
from llave_hf.data.look.repeats import repeat_remarks, repeats_of_pairs
from llave_hf.data.look.spread import evenly
from llave_hf.data.rows.labels import numbers_of
from llave_hf.data.samples import Pair
from llave_hf.data.sources.downloads import missing_data
from llave_hf.data.sources.specs import read_specs
from llave_hf.data.streaming.tasks import StreamedPairs, TrainingPairs
from llave_hf.training.objective.objective import number_columns
from llave_hf.training.recipe.best_metric import check_metric
from llave_hf.training.recipe.recipe import Recipe
from llave_hf.training.run import load_eval_benchmark, load_training_pairs

from .findings import NOTE, OK, PROBLEM, Finding, Patient

FAST_ROWS = 200  # a task


def open_data(recipe: Recipe) -> tuple[TrainingPairs | None, list[Finding]]:
    """The training rows and the benchmark, each with all the checks that training would make."""
    dataset = None
    try:
        findings = _missing(recipe)
        if not any(finding.level == PROBLEM for finding in findings):
            args = recipe.training
            dataset = load_training_pairs(
                recipe.data, use_negatives=args.use_negatives, whole_groups=args.batch_groups
            )
            text = f"{len(dataset):,} rows of {len(dataset.sources)} tasks; "
            if isinstance(dataset, StreamedPairs):
                text += "streamed: rows and files are checked as they are read"
            else:
                text += "no row is empty, every file exists"
            findings.append(Finding(OK, "data", text))
    except (ValueError, OSError) as error:
        findings = [Finding(PROBLEM, "data", str(error))]
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


def _missing(recipe: Recipe) -> list[Finding]:
    """What has to be downloaded and unpacked, with the commands."""
    specs = read_specs(recipe.data.train_data, media_root=recipe.data.media_root)
    return [Finding(PROBLEM if one.needed else NOTE, "data", str(one)) for one in missing_data(specs)]


def check_data(patient: Patient) -> Iterator[Finding]:
    """Duplicates, tasks smaller than a batch, files that do not open, columns that a setting needs."""
    dataset, args = patient.dataset, patient.recipe.training
    if dataset is None:
        return
    batch = args.per_device_train_batch_size * patient.devices
    level = PROBLEM if args.on_bad_sample == "raise" else NOTE
    columns = number_columns(args)
    without: list[str] = []
    grouped = [count * size for count, size in dataset.group_sizes()] if args.batch_groups else None
    for number, source in enumerate(dataset.sources):
        pairs = _Looked(dataset, _rows(source.start, len(source), patient.fast))
        rows, what = (len(source), "rows") if grouped is None else (grouped[number], "rows in groups")
        if rows < batch and args.batch_tasks == "one":
            text = f"{source.name} has {rows} {what}, fewer than a batch of {batch}: none of them is trained on"
            yield Finding(PROBLEM, "data", text)
        if rows < len(source):
            share = (len(source) - rows) / len(source)
            text = f"{source.name}: {len(source) - rows:,} rows are in no group ({share:.1%}) and are not trained on"
            yield Finding(PROBLEM if not rows else NOTE, "data", text)
        try:
            for remark in repeat_remarks(source.name, repeats_of_pairs(pairs)):
                yield Finding(remark.level, "data", f"{remark.where}: {remark.text}")
            opened = open_samples(pairs)
            if opened.broken:
                yield Finding(level, "data", f"{source.name}: {broken_files(opened.broken)}")
            elif opened.samples:
                text = f"{source.name}: {opened.samples} samples with pictures or videos opened"
                yield Finding(OK, "data", text)
            if args.use_negatives and not any(pair.negatives for pair in pairs):
                without.append(source.name)
            for pair in pairs if columns else ():
                numbers_of([pair], columns, len(pair.negatives))
        except ValueError as error:  # a row of a stream, which is checked only now, or one without a number
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
    return (start + evenly(count, FAST_ROWS)).tolist()
