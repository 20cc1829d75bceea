"""What training would refuse as it begins, found by the code that would refuse it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedConfig

from llave_hf.training.batches import train_dataloader
from llave_hf.training.objective.objective import Objective
from llave_hf.training.tuning.precision import emulated

from .findings import NOTE, OK, PROBLEM, Finding, Patient
from .model_sizes import config_of


def check_engine(patient: Patient) -> Iterator[Finding]:
    """What the engine of accelerate's configuration cannot do."""
    if patient.engine is None:
        return
    recipe = patient.recipe
    refusals = [*patient.engine.refusals(recipe.training, recipe.model.quantization, on_cpu=recipe.training.use_cpu)]
    for text in refusals:
        yield Finding(PROBLEM, "engine", text)
    if not refusals:
        yield Finding(OK, "engine", f"{patient.engine.name} does all that the recipe asks for")


def check_loss(patient: Patient) -> Iterator[Finding]:
    """Settings of the loss that the tasks or the model do not bear out; nothing where they do."""
    if patient.dataset is None:
        return
    args = patient.recipe.training
    Objective(args, [source.name for source in patient.dataset.sources])
    size = config_of(patient.recipe).hidden_size
    if longer := [number for number in args.matryoshka_dims if number > size]:
        yield Finding(PROBLEM, "loss", f"matryoshka_dims has {longer[0]}; vectors have {size} dimensions")


def check_batches(patient: Patient) -> Iterator[Finding]:
    """Whether the data fill the batches."""
    if patient.dataset is None:
        return
    args = patient.recipe.training
    count = len(train_dataloader(args, patient.dataset, list))
    yield Finding(OK, "batches", f"{count:,} of {args.per_device_train_batch_size:,} pairs an epoch on one device")


def check_precision(patient: Patient) -> Iterator[Finding]:
    """Whether the CPU that is to train multiplies the run's type by itself; nothing where another machine trains."""
    args = patient.recipe.training
    if patient.tflops is None and (dtype := emulated(args)) is not None:
        short, key = str(dtype).removeprefix("torch."), "bf16" if dtype == torch.bfloat16 else "fp16"
        text = f"this CPU does not multiply {short} by itself and is several times slower in it: leave {key} out here"
        yield Finding(NOTE, "settings", text)


def check_teacher(patient: Patient) -> Iterator[Finding]:
    """Whether there is a teacher where one is named."""
    teacher = patient.recipe.training.hardness_teacher
    if teacher is None:
        return
    try:
        PreTrainedConfig.get_config_dict(teacher)
    except (ValueError, OSError) as error:
        yield Finding(PROBLEM, "teacher", f"hardness_teacher {teacher} cannot be opened: {error}")
