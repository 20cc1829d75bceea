"""Settings of transformers' Trainer that LlaveTrainer has no use for: refused, rather than taken without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from transformers import TrainingArguments
from transformers.debug_utils import DebugOption
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType

from llave_hf.errors import UserError

_RANKING = "evaluation ranks a benchmark's candidates, and no logits go to metrics"
_LAUNCHED = "accelerate launch chooses the engine: give it --config_file recipes/accelerate/{}.yaml"

REFUSED = {
    "average_tokens_across_devices": "the loss is a mean over pairs, not over tokens",
    "label_smoothing_factor": "pairs have no labels to smooth; a higher temperature softens the loss",
    "label_names": "pairs have no labels",
    "use_cache": "embedding generates nothing that a cache would serve",
    "use_liger_kernel": "liger-kernel does not know LLaVE's models",
    "liger_kernel_config": "liger-kernel does not know LLaVE's models",
    "neftune_noise_alpha": "its noise depends on a row's length, and rows run without the tokens that they share",
    "auto_find_batch_size": "a smaller batch has fewer negatives; mini_batch_num_tokens bounds the memory instead",
    "bf16_full_eval": "evaluation runs in the precision of training; bf16 sets both",
    "fp16_full_eval": "evaluation runs in the precision of training; fp16 sets both",
    "prediction_loss_only": _RANKING,
    "eval_do_concat_batches": _RANKING,
    "eval_use_gather_object": _RANKING,
    "eval_accumulation_steps": _RANKING,
    "include_for_metrics": _RANKING,
    "batch_eval_metrics": _RANKING,
    "enable_jit_checkpoint": "SIGTERM has every run write a whole checkpoint, on all ranks",
    "hub_always_push": "the model is published once, when it is finished",
    "parallelism_config": "every rank must bring pairs of its own, and these ranks would share them",
    "train_sampling_strategy": "batch_tasks and sampling_temperature draw the rows, and balance_tokens evens lengths",
    "length_column_name": "lengths are those of the samples, and no column's",
    "fsdp": _LAUNCHED.format("fsdp2"),
    "fsdp_config": _LAUNCHED.format("fsdp2"),
    "deepspeed": _LAUNCHED.format("zero3"),
    "do_predict": "there is nothing to predict; llave evaluate looks at a finished model",
    "local_rank": "torchrun and accelerate launch tell each process its rank",
}
_OF_ACCELERATES_LOADERS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking")


def check_trainer_settings(args: TrainingArguments) -> None:
    """Refuses what would be taken without effect; to be called before transformers' own checks rewrite the values.

    Raises:
        UserError: Names the setting, why it is none here, and what to do.
    """
    defaults = {field.name: _default(field) for field in fields(TrainingArguments) if field.name in REFUSED}
    for name, default in defaults.items():
        if (value := getattr(args, name)) != default:
            raise UserError(f"{name} is {value!r}, which LlaveTrainer cannot use: {REFUSED[name]}. Leave it out.")
    for text in (*_of_schedule(args), *_of_loader(args)):
        raise UserError(text)


def check_parsed_settings(args: TrainingArguments) -> None:
    """The same of settings that transformers has to read first, from JSON or a file.

    Raises:
        UserError: Names the setting.
    """
    default = AcceleratorConfig()
    for name in _OF_ACCELERATES_LOADERS:
        if getattr(args.accelerator_config, name) != getattr(default, name):
            raise UserError(
                f"accelerator_config.{name} is for loaders that accelerate prepares, and LlaveTrainer deals batches "
                "out by itself. Leave it out."
            )
    if DebugOption.TPU_METRICS_DEBUG in args.debug:
        raise UserError("debug tpu_metrics_debug is for TPUs, which LlaveTrainer does not train on. Leave it out.")


def _default(field: Field[Any]) -> Any:
    made: Callable[[], Any] | Any = field.default_factory
    return field.default if made is MISSING else made()


def _of_schedule(args: TrainingArguments) -> Iterator[str]:
    kind = SchedulerType(args.lr_scheduler_type)
    if args.lr_scheduler_kwargs and kind in (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP):
        yield f"lr_scheduler_kwargs is given, and lr_scheduler_type {kind.value} takes none: leave it out."


def _of_loader(args: TrainingArguments) -> Iterator[str]:
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(args, name) and args.dataloader_num_workers == 0:
            yield f"{name} is given, and there are no workers: set dataloader_num_workers, or leave it out."
