"""What each engine holds on a device and what a step exchanges, from the shapes of a model.

Bytes of a parameter, W devices, m bytes for a trained weight (4), c for what products run in (2 with bf16), o for a
weight as it was opened:

| engine | trained | frozen |
|---|---|---|
| DDP | m weight, m gradient, 2 m moments | o |
| FSDP2 | the same / W | o / W |
| ZeRO-2 | c + (c gradient, 4 weight, 8 moments) / W | c |
| ZeRO-3 | (c + c gradient, 4 weight, 8 moments) / W | c / W |

FSDP2 and ZeRO-3 gather beside it what runs: FSDP2 two of its units (one runs while the next comes), ZeRO-3 up to
`stage3_max_live_parameters`. DeepSpeed also has a bucket for gradients on their way. Its numbers are its defaults.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from llave_hf.training.recipe.recipe import Recipe

from .findings import OK, Finding, Patient
from .model_sizes import config_of, part_sizes, skeleton
from .tuned_sizes import tuned_sizes

ENGINES = ("DDP", "FSDP2", "ZeRO-2", "ZeRO-3")
MAX_LIVE_PARAMETERS, REDUCE_BUCKET = 10**9, 5 * 10**8  # DeepSpeed's stage3_max_live_parameters, reduce_bucket_size
ADAM = 12  # DeepSpeed's own weight and moments in float32


@dataclass(frozen=True)
class Held:
    """Bytes on one device, without activations.

    Attributes:
        kept: Weights, gradients and the optimizer's moments.
        passing: What is gathered, or on its way, at most at one time.
    """

    kept: float
    passing: float


def held(recipe: Recipe, engine: str, devices: int) -> Held:
    """What an engine of `ENGINES` holds; LoRA's adapters count as trained."""
    tuned, compute = tuned_sizes(recipe), compute_bytes(recipe)
    if engine == "DDP":
        return Held(tuned.weights + tuned.states, 0)
    if engine == "FSDP2":
        return Held((tuned.weights + tuned.states) / devices, 2 * compute * largest_unit(recipe))
    parameters = sum(part_sizes(recipe).values()) + tuned.adapters
    of_optimizer = tuned.trained * (compute + ADAM) / devices
    bucket = min(REDUCE_BUCKET, tuned.trained) * compute
    if engine == "ZeRO-2":
        return Held(parameters * compute + of_optimizer, bucket)
    gathered = min(MAX_LIVE_PARAMETERS, parameters) * compute
    return Held(parameters * compute / devices + of_optimizer, gathered + bucket)


def compute_bytes(recipe: Recipe) -> int:
    """Of a number in a product."""
    return 2 if recipe.training.bf16 or recipe.training.fp16 else 4


def largest_unit(recipe: Recipe) -> int:
    """Parameters of the largest module that FSDP2 gathers at once: a layer, the token embedding, or the rest."""
    model = skeleton(recipe)
    kinds = set(model._no_split_modules)
    units = [module for module in model.modules() if type(module).__name__ in kinds]
    units.append(model.get_input_embeddings())
    sizes = [sum(parameter.numel() for parameter in unit.parameters()) for unit in units]
    inside = {id(parameter) for unit in units for parameter in unit.parameters()}
    rest = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside)
    return max(*sizes, rest)


def vector_bytes(recipe: Recipe, devices: int) -> float:
    """That a device gets in a step for the loss: the documents of the others, and gradients of its own from them."""
    args = recipe.training
    if not args.gather_across_devices:
        return 0
    pairs = (devices - 1) * args.per_device_train_batch_size * args.gradient_accumulation_steps
    return 2.0 * pairs * config_of(recipe).hidden_size * 4


def parameter_traffic(recipe: Recipe, engine: str, devices: int, micro_batches: int) -> float:
    """Bytes of parameters and gradients that a device gets in a step.

    Args:
        recipe, engine, devices: As in [`held`].
        micro_batches: That a device runs in an update.
    """
    tuned, compute = tuned_sizes(recipe), compute_bytes(recipe)
    share = (devices - 1) / devices
    if engine == "DDP":  # each part of the gradient is summed on one device, and sent to all
        master = 2 if recipe.training.master_weights == "bfloat16" else 4
        return 2 * share * tuned.trained * master
    parameters = sum(part_sizes(recipe).values()) + tuned.adapters
    backwards = micro_batches if recipe.training.caches_gradients else recipe.training.gradient_accumulation_steps
    if engine == "ZeRO-2":  # shares of the gradient with each backward, the new weights once
        return share * tuned.trained * compute * (backwards + 1)
    forwards = micro_batches * (2 if recipe.training.caches_gradients else 1)
    gathers = forwards + micro_batches  # and once more for each backward
    gradient = compute if engine == "ZeRO-3" else 4  # FSDP2 reduces in float32
    return share * (parameters * compute * gathers + tuned.trained * gradient * backwards)


def check_engines(patient: Patient, tokens_at_once: float, tokens: float) -> Iterator[Finding]:
    """Negatives, what a step exchanges and what each engine holds, for several devices.

    Args:
        patient: With the number of devices.
        tokens_at_once, tokens: Of a micro-batch, and of a device's batch.
    """
    recipe, devices = patient.recipe, patient.devices
    args = recipe.training
    if devices == 1:
        return
    spread = devices if args.gather_across_devices else 1
    pairs = args.per_device_train_batch_size
    text = f"{pairs * spread - 1:,} per query: {pairs:,} pairs x {spread} device(s) - 1"
    yield Finding(OK, "negatives", text)
    micro_batches = math.ceil(tokens / tokens_at_once) * args.gradient_accumulation_steps
    traffic = [
        f"{engine} {parameter_traffic(recipe, engine, devices, micro_batches) / 1e9:,.1f} GB" for engine in ENGINES
    ]
    text = (
        f"a device gets {vector_bytes(recipe, devices) / 1e6:,.1f} MB of vectors a step; of parameters and gradients, "
        f"with {micro_batches} micro-batch(es): {', '.join(traffic)}"
    )
    yield Finding(OK, "exchange", text)
    for engine in ENGINES:
        of = held(recipe, engine, devices)
        text = (
            f"{engine} on {devices} devices holds {of.kept / 1e9:,.1f} GB on each, up to {of.passing / 1e9:,.1f} GB "
            "of what is gathered or reduced, and activations"
        )
        yield Finding(OK, "engine", text)
