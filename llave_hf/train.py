"""Trains from a recipe.

    accelerate launch -m llave_hf.train recipes/tiny.yaml
    accelerate launch -m llave_hf.train recipes/llave-0.5b.yaml --hardness_strength 5 --output_dir out
    accelerate launch -m llave_hf.train recipes/llave-0.5b.yaml --output_dir out --resume_from_checkpoint

Every key of the recipe can be overridden; a killed run goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from accelerate import PartialState
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from .data.pairs import PairDataset, load_pairs
from .errors import UserError, user_errors
from .from_scratch import build_from_scratch
from .initialisation import match_processor
from .modeling_llave import LlaveModel
from .processing_llave import LlaveProcessor
from .training.recipe import DataArguments, ModelArguments, Recipe, load_recipe
from .training.summary import describe_run
from .training.trainer import LlaveTrainer

if TYPE_CHECKING:
    from .evaluation import Benchmark

logger = logging.get_logger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: a recipe, then `--key value` overrides."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    with user_errors():
        recipe = load_recipe(arguments[0], arguments[1:])
        train(recipe)


def train(recipe: Recipe) -> LlaveTrainer:
    """Runs a recipe: data, model, trainer, checkpoints, the final folder with its evaluation and card."""
    checkpoint = find_checkpoint(recipe)
    dataset = load_training_pairs(recipe.data, use_negatives=recipe.training.use_negatives)
    benchmark = load_eval_benchmark(recipe.data)
    model, processor = load_model(recipe.model, dataset, recipe.training.output_dir, recipe.training.seed)
    trainer = LlaveTrainer(
        model,
        recipe.training,
        train_dataset=dataset,
        eval_dataset=benchmark.select(recipe.data.eval_subsets) if benchmark else None,
        processing_class=processor,
    )
    if trainer.is_world_process_zero():
        print(f"llave_hf trains {recipe.training.output_dir}\n{describe_run(recipe, trainer, dataset)}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    finish(recipe, trainer, benchmark)
    return trainer


def finish(recipe: Recipe, trainer: LlaveTrainer, benchmark: Benchmark | None) -> None:
    """Saves the model folder, the recipe and the log; evaluates; writes fingerprint and card."""
    folder = Path(recipe.training.output_dir)
    trainer.save_model()
    trainer.save_state()
    trainer.watch.finish(trainer.state.global_step, folder)
    if trainer.is_world_process_zero():
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.raw, sort_keys=False), encoding="utf-8")
    if benchmark is not None:
        trainer.evaluate(benchmark, output_dir=folder / "eval")
    if trainer.is_world_process_zero():
        from .hub.fingerprint import write_fingerprint
        from .hub.model_card import write_model_card

        # Sharded weights are whole only in the folder, and this process computes without the others.
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        write_fingerprint(folder, model=None if sharded else trainer.model, processor=trainer.processing_class)
        write_model_card(folder)
    trainer.accelerator.end_training()  # without it, a resumed run of two ranks aborts at exit


def find_checkpoint(recipe: Recipe) -> str | None:
    """The checkpoint to go on from, if the recipe asks for one.

    Raises:
        UserError: The output folder holds a model or checkpoints and nothing says to go on from them.
    """
    folder = Path(recipe.training.output_dir)
    wanted = recipe.training.resume_from_checkpoint
    if isinstance(wanted, str) and wanted.lower() not in ("true", "false"):
        return wanted
    if wanted and str(wanted).lower() == "true":
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        if last is None:
            logger.warning(f"{folder} holds no checkpoint to go on from; training starts at the beginning.")
        return last
    if (folder / "config.json").exists() or (folder.is_dir() and get_last_checkpoint(str(folder))):
        raise UserError(
            f"output_dir {folder} already holds a model or checkpoints; go on with --resume_from_checkpoint, or "
            "choose another folder with --output_dir."
        )
    return None


def load_eval_benchmark(data: DataArguments) -> Benchmark | None:
    """The benchmark that a recipe names, its rows and files checked before any training time is spent."""
    if data.eval_benchmark is None:
        return None
    from .evaluation import load_benchmark

    benchmark = load_benchmark(data.eval_benchmark, data=data.eval_data)
    benchmark.check()
    return benchmark


def load_training_pairs(data: DataArguments, *, use_negatives: bool) -> PairDataset:
    """The pairs that a recipe names."""
    return load_pairs(
        data.train_data,
        media_root=data.media_root,
        subsets=data.train_subsets,
        split=data.train_split,
        max_samples_per_source=data.max_samples_per_source,
        use_negatives=use_negatives,
    )


def training_texts(dataset: PairDataset) -> Iterator[str]:
    """The texts of all queries and positives."""
    for index in range(len(dataset)):
        pair = dataset[index]
        yield pair.query.text
        yield pair.positive.text


def load_model(
    arguments: ModelArguments, dataset: PairDataset, output_dir: str, seed: int
) -> tuple[LlaveModel, LlaveProcessor]:
    """The model and processor that a recipe names, or builds from random weights.

    A model from scratch is built by one process and saved in the output folder: all ranks, and a resumed run, read
    the same tokenizer and the same initial weights.
    """
    hub = {"revision": arguments.model_revision, "trust_remote_code": arguments.trust_remote_code}
    source: str | Path
    if arguments.model is not None:
        source = arguments.model
    else:
        source = Path(output_dir) / "initial"
        if PartialState().is_main_process and not (source / "processor_config.json").exists():
            options = {"processor": arguments.processor, "seed": seed, **(arguments.from_scratch or {})}
            model, processor = build_from_scratch(training_texts(dataset), **options)
            model.save_pretrained(source)
            processor.save_pretrained(source)
        PartialState().wait_for_everyone()
    loading = {"attn_implementation": arguments.attn_implementation} if arguments.attn_implementation else {}
    model = LlaveModel.from_pretrained(source, **hub, **loading)
    overrides = arguments.processor if arguments.model is not None else {}
    processor = LlaveProcessor.from_pretrained(source, **hub, **overrides)
    match_processor(model, processor)
    return model, processor


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # worker processes are forked after its first use
    main()
