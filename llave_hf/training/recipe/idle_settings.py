"""Settings of a recipe that another of its settings leaves without effect: told as a run begins, and by the doctor.

They are no errors: a key of a recipe may stand there for the other values of one that is overridden.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from .arguments import LlaveTrainingArguments
from .loss_settings import grades_by_teacher
from .tuning import frozen_parts

if TYPE_CHECKING:
    from .recipe import DataArguments, ModelArguments, Recipe

_WITHOUT_WARMUP = (SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
_OF_CONTRAST = (
    "hardness_strength",
    "hardness_strength_by_task",
    "hardness_warmup_steps",
    "hardness_source",
    "hardness_mode",
    "hardness_reference",
    "max_hardness_weight",
    "focal_margin",
    "directions",
    "share_negatives",
    "gather_across_devices",
    "false_negative_margin",
    "teacher_margin",
    "mask_equal_labels",
    "compile_loss",
)
_OF_TRACKIO = ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")


def idle_settings(recipe: Recipe) -> list[str]:
    """What has no effect, and why: one line each."""
    parts = (recipe.model, recipe.data, recipe.training)
    changed = {name: part for part in parts for name in _changed(part)}
    training = recipe.training
    found = [
        *_of_loss(training),
        *_of_batches(training, recipe.data),
        *_of_evaluation(training, recipe.data),
        *_of_saving(training),
        *_of_optimizer(training),
        *_of_model(recipe.model),
    ]
    return [f"{name} has no effect: {why}" for names, why in found for name in names if name in changed]


Idle = Iterator[tuple[Iterable[str], str]]


def _of_loss(args: LlaveTrainingArguments) -> Idle:
    by_task = (args.hardness_strength_by_task or {}).values()
    if args.contrastive_weight == 0:
        yield _OF_CONTRAST, "contrastive_weight is 0, so rows are not compared with each other"
    elif args.hardness_strength == 0 and not any(by_task) and args.effective_negatives is None:
        idle = ["hardness_warmup_steps", "hardness_mode", "max_hardness_weight", "hardness_reference"]
        if args.teacher_margin is None:  # which a teacher or an average also serves
            idle += ["hardness_source", "ema_decay"]
            idle += [] if grades_by_teacher(args) else ["hardness_teacher"]
        yield idle, "hardness_strength is 0, so no negative is weighted"
    if args.teacher_margin is None and args.false_negative_margin is None:
        yield ["margin_strategy"], "there is neither a false_negative_margin nor a teacher_margin"
    if args.distill_weight == 0:
        yield ["distill_source", "teacher_temperature"], "distill_weight is 0, so there are no graded labels"
    if args.hardness_source != "ema":
        yield ["ema_decay"], f"hardness_source is {args.hardness_source}, and no average is kept"
    if not args.learn_temperature:
        yield ["temperature_learning_rate"], "learn_temperature is off"
    if not args.use_negatives:
        yield ["share_negatives"], "use_negatives is off, so rows bring no negatives of their own"
    if not args.mask_duplicates:
        yield ["count_duplicates_once"], "mask_duplicates is off, and duplicates are not looked for"


def _of_batches(args: LlaveTrainingArguments, data: DataArguments) -> Idle:
    if not data.streaming:
        yield ["stream_buffer_size"], "streaming is off, so all rows are shuffled"
    if not args.caches_gradients:
        yield ["graph_memory_gb", "vision_memory_gb"], "gradients are not cached, so the whole batch holds its graph"
    elif "vision_tower" not in frozen_parts(args.freeze, args.lora):
        yield ["vision_memory_gb"], "the vision tower is trained, so its features are not kept"
    if args.on_bad_sample == "raise":
        yield ["max_bad_samples"], "on_bad_sample is raise, so the first one ends the run"
    if args.dataloader_num_workers == 0:
        yield ["dataloader_in_order"], "dataloader_num_workers is 0, and batches come as they are drawn"


def _of_evaluation(args: LlaveTrainingArguments, data: DataArguments) -> Idle:
    strategy = IntervalStrategy(args.eval_strategy)
    during = strategy is not IntervalStrategy.NO or args.eval_on_start
    if data.eval_benchmark is None:
        yield ["eval_data", "eval_subsets", "do_eval"], "eval_benchmark is not given"
    elif not during:
        yield ["eval_subsets"], "eval_strategy is no, and after training all subsets are evaluated"
    if strategy is IntervalStrategy.NO:
        yield ["eval_steps", "eval_delay"], "eval_strategy is no"
    elif strategy is IntervalStrategy.EPOCH:
        yield ["eval_steps"], "eval_strategy is epoch"


def _of_saving(args: LlaveTrainingArguments) -> Idle:
    strategy = SaveStrategy(args.save_strategy)
    if strategy is not SaveStrategy.STEPS:
        yield ["save_steps"], f"save_strategy is {strategy.value}"
    if strategy is SaveStrategy.NO:
        yield ["save_total_limit", "save_only_model", "save_on_each_node"], "save_strategy is no"
    if IntervalStrategy(args.logging_strategy) is not IntervalStrategy.STEPS:
        yield ["logging_steps"], f"logging_strategy is {IntervalStrategy(args.logging_strategy).value}"
    if not args.resume_from_checkpoint:
        yield ["ignore_data_skip", "restore_callback_states_from_checkpoint"], "resume_from_checkpoint is not given"
    if not args.push_to_hub:
        names = ["hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_revision"]
        yield names, "push_to_hub is off"
    if not args.report_to:
        yield ["run_name"], "report_to is none, so the run is reported nowhere"
    if "trackio" not in args.report_to:
        yield _OF_TRACKIO, "report_to has no trackio"


def _of_optimizer(args: LlaveTrainingArguments) -> Idle:
    kind = SchedulerType(args.lr_scheduler_type)
    if kind in _WITHOUT_WARMUP:
        hint = "; constant_with_warmup has" if kind is SchedulerType.CONSTANT else ""
        yield ["warmup_steps"], f"lr_scheduler_type {kind.value} has no warm-up{hint}"
    if not args.gradient_checkpointing:
        names = ["gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"]
        yield names, "gradient_checkpointing is off"
    if args.max_steps > 0:
        yield ["num_train_epochs"], "max_steps ends the run"


def _of_model(model: ModelArguments) -> Idle:
    if model.from_scratch is not None:
        yield ["model_revision", "trust_remote_code"], "the model is built from scratch"
    elif os.path.isdir(model.model or ""):
        yield ["model_revision"], "model is a folder"


def _changed(part: Any) -> set[str]:
    """Names of the fields that differ from their defaults."""
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(part)}
    return {name for name, default in defaults.items() if getattr(part, name) != default}
