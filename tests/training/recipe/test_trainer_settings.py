"""Every setting of transformers' Trainer is filled, works, or is refused: none is taken without effect.

A field of a new release must be judged: `test_every_field_is_judged` names those that nobody has looked at.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers import write_recipe, write_training_data
from transformers import TrainingArguments

from llave_hf.errors import UserError
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.recipe.trainer_settings import REFUSED
from llave_hf.training.run import told_at_the_end, train

# Read by Trainer in what LlaveTrainer leaves to it, or by the code named here.
WORKS = {
    "output_dir",
    "per_device_train_batch_size",  # training/batches.py
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",  # a warm-up that it does not have is told: recipe/idle_settings.py
    "lr_scheduler_kwargs",  # recipe/best_metric.py
    "warmup_steps",
    "optim",  # beside muon_learning_rate refused: recipe/arguments.py
    "optim_args",
    "optim_target_modules",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_accumulation_steps",  # adds no negatives, which a warning says
    "max_grad_norm",
    "bf16",
    "fp16",
    "tf32",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "torch_empty_cache_steps",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "include_num_input_tokens_seen",  # training/trainer.py
    "log_level",
    "log_level_replica",
    "disable_tqdm",
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "per_device_eval_batch_size",  # training/trainer.py, objective/teacher.py
    "eval_on_start",
    "save_only_model",
    "save_strategy",
    "save_steps",
    "save_on_each_node",
    "save_total_limit",  # recovery/checkpointing.py
    "push_to_hub",  # finish/publishing.py, and the next six
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_revision",
    "load_best_model_at_end",
    "metric_for_best_model",  # recipe/best_metric.py
    "greater_is_better",
    "ignore_data_skip",
    "restore_callback_states_from_checkpoint",
    "full_determinism",
    "seed",
    "data_seed",  # training/batches.py
    "use_cpu",
    "accelerator_config",  # but for accelerate's loaders
    "dataloader_drop_last",  # must stay as it is
    "remove_unused_columns",  # must stay as it is
    "dataloader_num_workers",  # training/batches.py, and the next five
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
    "ddp_backend",
    "ddp_timeout",
    "debug",  # but for TPUs
    "skip_memory_metrics",
    "do_train",  # what a run does anyway
    "do_eval",  # evaluation follows the training where there is a benchmark
    "resume_from_checkpoint",  # training/run.py
}
OTHER_VALUES: dict[str, Any] = {
    "average_tokens_across_devices": False,
    "label_smoothing_factor": 0.1,
    "label_names": ["labels"],
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "eval_do_concat_batches": False,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "parallelism_config": object(),
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "tokens",
    "fsdp": True,
    "fsdp_config": {"version": 2},
    "deepspeed": "zero3.json",
    "local_rank": 0,
}


def test_every_field_is_judged() -> None:
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    judged = WORKS | set(REFUSED)
    assert names - judged == set(), "nobody has looked at what these do in LlaveTrainer"
    assert not WORKS & set(REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_use_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} is .*, which LlaveTrainer cannot use: .*Leave it out\.$"):
        LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: OTHER_VALUES.get(name, True)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator_config": {"dispatch_batches": True}}, r"accelerator_config\.dispatch_batches is for loaders"),
        ({"accelerator_config": '{"even_batches": false}'}, r"accelerator_config\.even_batches is for loaders"),
        ({"accelerator_config": {"non_blocking": True}}, r"accelerator_config\.non_blocking is for loaders"),
        ({"debug": "tpu_metrics_debug"}, "debug tpu_metrics_debug is for TPUs"),
        (
            {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"num_cycles": 2}},
            "lr_scheduler_kwargs is given, and lr_scheduler_type constant takes none",
        ),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers is given, and there are no workers"),
        (
            {"dataloader_multiprocessing_context": "spawn"},
            "dataloader_multiprocessing_context is given, and there are no workers",
        ),
        ({"muon_learning_rate": 0.01, "optim": "sgd"}, "optim is sgd, and muon_learning_rate trains with Muon"),
        ({"muon_learning_rate": 0.01, "optim_args": "a=1"}, "optim_args is for optim, and muon_learning_rate"),
        (
            {"muon_learning_rate": 0.01, "optim_target_modules": ["x"]},
            "optim_target_modules is for optim, and muon_learning_rate",
        ),
    ],
)
def test_combinations_that_would_do_nothing_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}.*leave (it|one of them) out\.$|^{message}.*Leave it out\.$"):
        LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **changes)


def test_arguments_can_be_made_again_from_their_values(tmp_path: Path) -> None:
    made = LlaveTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert dataclasses.replace(made, seed=7).seed == 7


@pytest.mark.parametrize("which", ["all", "non_padding"])
def test_input_tokens_are_counted(tmp_path: Path, which: str) -> None:
    root = write_training_data(tmp_path)
    recipe = load_recipe(
        write_recipe(root, include_num_input_tokens_seen=which, max_steps=2, gradient_accumulation_steps=2)
    )
    trainer = train(recipe)
    batches = list(trainer.get_train_dataloader())[:4]
    masks = [part["attention_mask"] for batch in batches for part in batch["micro_batches"]]
    wanted = sum(int(mask.sum()) if which == "non_padding" else mask.numel() for mask in masks)
    assert trainer.state.num_input_tokens_seen == wanted > 0
    assert trainer.state.log_history[0]["num_input_tokens_seen"] > 0


def test_only_scores_are_told_as_scores(tmp_path: Path) -> None:
    """What is logged beside them is none: the epoch, and tokens where they are counted."""
    told = told_at_the_end(tmp_path, {"eval_mean_overall": 0.5, "epoch": 1.0, "num_input_tokens_seen": 4110})
    assert told.splitlines()[:3] == ["precision@1 in %", f"  {'mean_overall':<34}  50.0", "Written"]


def test_loaders_get_what_the_arguments_say(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    changes = {
        "dataloader_num_workers": 1,
        "dataloader_multiprocessing_context": "spawn",
        "dataloader_in_order": False,
        "dataloader_prefetch_factor": 3,
        "dataloader_persistent_workers": True,
    }
    args = LlaveTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none", **changes)
    from llave_hf.data.pairs import load_pairs
    from llave_hf.training.batches import train_dataloader

    loader = train_dataloader(args, load_pairs(str(root / "train"), media_root=str(root)), list)
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert (loader.in_order, loader.prefetch_factor, loader.persistent_workers) == (False, 3, True)


def test_adams_epsilon_reaches_the_adamw_beside_muon(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    trainer = train(load_recipe(write_recipe(root, muon_learning_rate=0.01, adam_epsilon=1e-5, max_steps=1)))
    assert {group["eps"] for group in trainer.optimizer.optimizer.adamw.param_groups} == {1e-5}
