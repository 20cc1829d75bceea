"""A training run from a recipe: data, model, trainer, checkpoints, the final folder with its evaluation and card."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from accelerate import PartialState
from PIL import Image
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import logging

from llave_hf.checkpoints.from_scratch import build_from_scratch
from llave_hf.checkpoints.initialisation import match_processor
from llave_hf.data.media import load_sample
from llave_hf.data.pairs import load_pairs
from llave_hf.data.streaming.tasks import TrainingPairs, stream_pairs
from llave_hf.errors import TERMINATED, UserError, leave_ranks
from llave_hf.evaluation.benchmark.benchmark import Benchmark
from llave_hf.evaluation.benchmark.collection import check_benchmark
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.places import check_folder, check_model, check_model_path, check_output_folder
from llave_hf.training.engines.choice import refuse_impossible
from llave_hf.training.engines.whole_models import whole_models
from llave_hf.training.finish.finished_model import save_finished
from llave_hf.training.recipe.best_metric import check_metric
from llave_hf.training.recipe.recipe import DataArguments, ModelArguments, Recipe, dump_recipe
from llave_hf.training.recovery.whole_folders import clear_leftovers, whole_folder
from llave_hf.training.tuning.quantization import mark_quantized, quantization_config

from .summary import describe_run
from .trainer import LlaveTrainer

logger = logging.get_logger(__name__)


def train(recipe: Recipe) -> LlaveTrainer:
    """Runs a recipe, from its start or from the last checkpoint."""
    refuse_impossible(recipe.training, recipe.model.quantization)
    check_places(recipe)
    checkpoint = find_checkpoint(recipe)
    dataset = load_training_pairs(
        recipe.data, use_negatives=recipe.training.use_negatives, whole_groups=recipe.training.batch_groups
    )
    benchmark = load_eval_benchmark(recipe.data)
    during = benchmark.select(recipe.data.eval_subsets) if benchmark else None
    check_metric(recipe.training, during)
    model, processor = load_model(recipe.model, dataset, recipe.training.output_dir, recipe.training.seed)
    trainer = LlaveTrainer(
        model,
        recipe.training,
        train_dataset=dataset,
        eval_dataset=during,
        processing_class=processor,
    )
    if trainer.is_world_process_zero():
        batches = len(trainer.get_train_dataloader())
        said = describe_run(recipe, trainer.model, dataset, collate=trainer.data_collator, batches=batches)
        print(f"llave_hf trains {recipe.training.output_dir}\n{said}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.termination.stopped_at is not None:
        leave_stopped(trainer, trainer.termination.stopped_at)
    finish(recipe, trainer, benchmark)
    return trainer


def leave_stopped(trainer: LlaveTrainer, step: int) -> NoReturn:
    """Ends a run that was told to: nothing is evaluated, and no folder is a finished model's."""
    if trainer.is_world_process_zero():
        place = Path(trainer.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        print(f"Stopped by SIGTERM after step {step}: {place} is whole, --resume_from_checkpoint goes on.", flush=True)
    trainer.accelerator.end_training()
    leave_ranks(TERMINATED)
    sys.exit(TERMINATED)


def check_places(recipe: Recipe) -> None:
    """Whether the folders and models that a recipe names are there, before rows are read.

    Raises:
        UserError: One of them is not.
    """
    model, data, args = recipe.model, recipe.data, recipe.training
    check_output_folder(args.output_dir, "output_dir")
    if data.eval_data is not None:
        check_folder(data.eval_data, "eval_data")
    check_model(model.model, revision=model.model_revision)
    check_model(args.hardness_teacher)
    wanted = args.resume_from_checkpoint
    if isinstance(wanted, str) and wanted.lower() not in ("", "true", "false"):
        check_folder(wanted, "resume_from_checkpoint")


def finish(recipe: Recipe, trainer: LlaveTrainer, benchmark: Benchmark | None) -> None:
    """Saves the model folder, the recipe and the log; evaluates; writes fingerprint and card; publishes if asked."""
    folder = Path(recipe.training.output_dir)
    whole = replace(recipe.model, quantization=None)
    save_finished(trainer, partial(open_model, whole, recipe.training.output_dir, trainer.processing_class))
    trainer.save_state()
    trainer.watch.finish(trainer.state.global_step, folder)
    if trainer.is_world_process_zero():
        told = {key: value for key, value in recipe.raw.items() if key != "hub_token"}
        (folder / "recipe.yaml").write_text(dump_recipe(told), encoding="utf-8")
    metrics = trainer.evaluate(benchmark, output_dir=folder / "eval") if benchmark is not None else {}
    trainer.describe()
    if trainer.is_world_process_zero():
        print(told_at_the_end(folder, metrics), flush=True)
    trainer.accelerator.end_training()  # without it, a resumed run of two ranks aborts at exit
    if recipe.training.push_to_hub:
        trainer.publish()


def told_at_the_end(folder: Path, metrics: Mapping[str, float]) -> str:
    """Precision@1 by subset and mean, and where things are."""
    by_name = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
    scores = [f"  {name:<34} {100 * value:5.1f}" for name, value in by_name.items()]
    heading = ["precision@1 in %", *scores] if scores else []
    report = f"\n  report     {folder / 'eval' / 'report.html'}" if scores else ""
    return "\n".join([*heading, f"Written\n  model      {folder}\n  card       {folder / 'README.md'}{report}"])


def find_checkpoint(recipe: Recipe) -> str | None:
    """The checkpoint to go on from, if the recipe asks for one.

    Raises:
        UserError: The output folder holds a model or checkpoints and nothing says to go on from them.
    """
    folder = Path(recipe.training.output_dir)
    wanted = recipe.training.resume_from_checkpoint
    going_on = bool(wanted) and str(wanted).lower() != "false"
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if not going_on and (last or (folder / "config.json").exists()):
        raise UserError(
            f"output_dir {folder} already holds a model or checkpoints; go on with --resume_from_checkpoint, or "
            "choose another folder with --output_dir."
        )
    if PartialState().is_main_process:
        clear_leftovers(folder)
    PartialState().wait_for_everyone()
    if not going_on:
        return None
    if str(wanted).lower() != "true":
        return str(wanted)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is None and PartialState().is_main_process:
        logger.warning(f"{folder} holds no checkpoint to go on from; training starts at the beginning.")
    return last


def load_eval_benchmark(data: DataArguments) -> Benchmark | None:
    """The benchmark that a recipe names, its rows and files checked before any training time is spent."""
    if data.eval_benchmark is None:
        return None
    benchmark = load_benchmark(data.eval_benchmark, data=data.eval_data)
    check_benchmark(benchmark)
    return benchmark


def load_training_pairs(data: DataArguments, *, use_negatives: bool, whole_groups: bool = False) -> TrainingPairs:
    """The pairs that a recipe names; with `whole_groups`, each task with its groups."""
    opened = stream_pairs if data.streaming else load_pairs
    return opened(
        data.train_data,
        media_root=data.media_root,
        subsets=data.train_subsets,
        split=data.train_split,
        max_samples_per_source=data.max_samples_per_source,
        use_negatives=use_negatives,
        whole_groups=whole_groups,
    )


def training_texts(dataset: TrainingPairs) -> Iterator[str]:
    """The texts of all queries and positives."""
    for index in range(len(dataset)):
        pair = dataset[index]
        yield pair.query.text
        yield pair.positive.text


def training_pictures(dataset: TrainingPairs, most: int = 1000) -> Iterator[Image.Image]:
    """The pictures of queries and positives of evenly spaced rows, `most` rows of them."""
    for index in range(0, len(dataset), max(len(dataset) // most, 1)):
        pair = dataset[index]
        for sample in (pair.query, pair.positive):
            yield from load_sample(replace(sample, video=None)).get("images", ())


def load_model(
    arguments: ModelArguments, dataset: TrainingPairs, output_dir: str, seed: int
) -> tuple[LlaveModel, LlaveProcessor]:
    """The model and processor that a recipe names, or builds from random weights.

    A model from scratch is built by one process and saved in the output folder: all ranks, and a resumed run, read
    the same tokenizer and the same initial weights.
    """
    source = model_source(arguments, output_dir)
    if arguments.model is None:
        if PartialState().is_main_process and not Path(source, "processor_config.json").exists():
            options = {"processor": arguments.processor, "seed": seed, **(arguments.from_scratch or {})}
            with whole_models(), whole_folder(Path(source)) as staged:
                model, processor = build_from_scratch(
                    training_texts(dataset), pictures=partial(training_pictures, dataset), **options
                )
                model.save_pretrained(staged)
                processor.save_pretrained(staged)
        PartialState().wait_for_everyone()
    overrides = arguments.processor if arguments.model is not None else {}
    processor = LlaveProcessor.from_pretrained(source, **_hub(arguments), **overrides)
    model = open_model(arguments, output_dir, processor)
    if arguments.from_scratch is not None:
        _check_shape(model, arguments.from_scratch, source)
    return model, processor


def _check_shape(model: LlaveModel, fields: Mapping[str, Any], source: str | Path) -> None:
    """Whether a model that a stopped run built is the recipe's."""
    for part in ("vision_config", "text_config"):
        built = getattr(model.config.backbone_config, part)
        for name, value in fields[part].items():
            if getattr(built, name, value) != value:
                raise UserError(
                    f"{source} was built with from_scratch.{part}.{name} {getattr(built, name)}, the recipe says "
                    f"{value}: take it back, or begin anew in another output_dir."
                )


def open_model(arguments: ModelArguments, output_dir: str, processor: LlaveProcessor) -> LlaveModel:
    """The model that a recipe names or, in `output_dir`, has built."""
    loading: dict[str, Any] = {"dtype": arguments.dtype}
    if arguments.attn_implementation:
        loading["attn_implementation"] = arguments.attn_implementation
    if arguments.quantization is not None:
        loading["quantization_config"] = quantization_config(arguments.quantization)
    model = LlaveModel.from_pretrained(model_source(arguments, output_dir), **_hub(arguments), **loading)
    if arguments.quantization is not None:
        mark_quantized(model)
    match_processor(model, processor)
    return model


def model_source(arguments: ModelArguments, output_dir: str) -> str | Path:
    """Where a run's weights come from.

    Raises:
        UserError: `model` can only be a folder, and there is none.
    """
    check_model_path(arguments.model)
    return arguments.model if arguments.model is not None else Path(output_dir) / "initial"


def _hub(arguments: ModelArguments) -> dict[str, Any]:
    return {"revision": arguments.model_revision, "trust_remote_code": arguments.trust_remote_code}
