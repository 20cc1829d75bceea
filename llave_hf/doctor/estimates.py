"""Peak memory of a device and time of a step, from shapes and a sample of rows; the assumptions are printed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from llave_hf.checkpoints.from_scratch import train_tokenizer
from llave_hf.data.media import load_sample
from llave_hf.model.media_llave import MediaError
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.training.recipe.recipe import Recipe
from llave_hf.training.recipe.tuning import STACKS, frozen_parts
from llave_hf.training.run import training_texts
from llave_hf.training.step.activations import activation_bytes, cast_bytes, is_checkpointed, keeping_parts
from llave_hf.training.step.graph_memory import GIB

from .engine_sizes import check_engines
from .findings import NOTE, OK, PROBLEM, Finding, Patient
from .model_sizes import config_of, part_sizes, skeleton
from .tuned_sizes import tuned_sizes

SAMPLED_PAIRS = 32
UTILISATION = 0.4  # of a device's dense teraflops that a training step reaches
LONGEST_QUANTILE = 0.95


def check_memory_and_time(patient: Patient) -> Iterator[Finding]:
    """The estimates, and what they rest on."""
    if patient.dataset is None:
        return
    recipe, args = patient.recipe, patient.recipe.training
    lengths = sample_lengths(patient)
    if not len(lengths):
        yield Finding(PROBLEM, "memory", "none of the samples looked at opens, so nothing can be estimated")
        return
    text = (
        f"{lengths.mean():,.0f} tokens a sample on average, {np.quantile(lengths, LONGEST_QUANTILE):,.0f} at the "
        f"{LONGEST_QUANTILE:.0%} mark, {lengths.max():,} at most, of {len(lengths)} samples"
    )
    yield Finding(OK, "data", text)
    weights, states, activations = memory(recipe, lengths)
    text = (
        f"about {(weights + states + activations) / 1e9:.1f} GB a device: weights {weights / 1e9:.1f}, gradients and "
        f"optimizer {states / 1e9:.1f}, activations {activations / 1e9:.1f} (no sharding; "
        f"activation checkpointing of {_checkpoints(recipe)})"
    )
    yield Finding(OK if not torch.cuda.is_available() else _fits(weights + states + activations), "memory", text)
    yield from check_engines(patient, _tokens_at_once(recipe, lengths), _tokens(recipe, lengths))
    flops = step_flops(recipe, lengths)
    speed = patient.tflops or measured_tflops()
    seconds = flops / (speed * 1e12 * UTILISATION)
    steps = args.max_steps
    if steps <= 0:
        pairs = args.per_device_train_batch_size * patient.devices * args.gradient_accumulation_steps
        steps = int(args.num_train_epochs * len(patient.dataset) / pairs)
    text = (
        f"about {seconds:.2f} s a step, {steps * seconds / 3600:.1f} h for {steps:,} steps on {patient.devices} "
        f"device(s): {flops / 1e12:.2f} Tflop a step and device, {speed:.2f} Tflop/s at {UTILISATION:.0%}"
    )
    yield Finding(OK, "time", text + ("" if patient.tflops else " (this machine's CPU, measured; --tflops for yours)"))


def sample_lengths(patient: Patient) -> np.ndarray:
    """Tokens of the queries and positives of some pairs, spread evenly over the data: `(samples,)`; without those
    whose pictures do not open."""
    dataset = patient.dataset
    assert dataset is not None
    processor = _processor(patient)
    lengths = []
    for row in np.linspace(0, len(dataset) - 1, min(SAMPLED_PAIRS, len(dataset)), dtype=int):
        pair = dataset[int(row)]
        for sample in (pair.query, pair.positive):
            try:
                loaded = load_sample(sample, processor.num_frames, processor.max_frames)
            except MediaError:  # the checks of the data have named it
                continue
            made = processor(text=[loaded["text"]], images=[loaded.get("images")], videos=[loaded.get("video")])
            lengths.append(made["input_ids"].shape[1])
    return np.array(lengths)


def memory(recipe: Recipe, lengths: np.ndarray) -> tuple[float, float, float]:
    """Bytes of weights, of gradients and optimizer, and of activations with autocast's copies of weights."""
    tuned = tuned_sizes(recipe)
    tokens = max(_tokens_at_once(recipe, lengths), _graph_tokens(recipe, lengths))
    casts = cast_bytes(skeleton(recipe), recipe.training)
    return tuned.weights, tuned.states, _activations(recipe) * tokens + casts


def _activations(recipe: Recipe) -> float:
    """Bytes a token, as if every token were visual."""
    config = config_of(recipe)
    of = activation_bytes(config, recipe.training)
    patches = getattr(config.backbone_config.vision_config, "spatial_merge_size", 1) ** 2  # of a token
    return of.token + patches * of.patch


def _checkpoints(recipe: Recipe) -> str:
    return " and ".join(part for part in STACKS if is_checkpointed(recipe.training, part)) or "nothing"


def step_flops(recipe: Recipe, lengths: np.ndarray) -> float:
    """Of one device: 2 a parameter and token forwards, twice that backwards (once where weights are frozen and an
    adapter is trained), once more for each recomputation."""
    args, sizes = recipe.training, part_sizes(recipe)
    tokens = _tokens(recipe, lengths)
    frozen = frozen_parts(args.freeze, args.lora)
    forward_again = 1 - _graph_tokens(recipe, lengths) / tokens if args.caches_gradients else 0.0
    flops = 0.0
    for part in STACKS:
        passes = 3 - int(args.lora is not None) + int(is_checkpointed(args, part)) + forward_again
        flops += 2 * sizes[part] * tokens * (1 if part == "vision_tower" and part in frozen else passes)
    return flops * args.gradient_accumulation_steps


def measured_tflops(size: int = 1024) -> float:
    """Of a float32 product on this machine's CPU."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    left @ right
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def _tokens(recipe: Recipe, lengths: np.ndarray) -> float:
    """Of a device's batch."""
    return float(2 * lengths.mean() * recipe.training.per_device_train_batch_size)


def _tokens_at_once(recipe: Recipe, lengths: np.ndarray) -> float:
    """With gradient caching those of a micro-batch; without it the activations of all live."""
    args, tokens = recipe.training, _tokens(recipe, lengths)
    if not args.caches_gradients:
        return tokens
    if args.mini_batch_num_tokens:
        return min(float(args.mini_batch_num_tokens), tokens)
    samples = 2 * args.per_device_train_batch_size
    return float(np.quantile(lengths, LONGEST_QUANTILE) * min(args.mini_batch_size or samples, samples))


def _graph_tokens(recipe: Recipe, lengths: np.ndarray) -> float:
    """Of the micro-batches that gradient caching runs forward once."""
    args = recipe.training
    room = args.graph_memory_gb * GIB - cast_bytes(skeleton(recipe), args, keeping_parts(args))
    kept = max(room / _activations(recipe), _tokens_at_once(recipe, lengths))
    return min(kept, _tokens(recipe, lengths))


def _fits(needed: float) -> str:
    free = torch.cuda.get_device_properties(0).total_memory
    return OK if needed < 0.9 * free else NOTE


def _processor(patient: Patient) -> LlaveProcessor:
    arguments = patient.recipe.model
    if arguments.model is not None:
        return LlaveProcessor.from_pretrained(arguments.model, **arguments.processor)
    assert patient.dataset is not None
    fields = arguments.from_scratch or {}
    tokenizer = train_tokenizer(
        training_texts(patient.dataset),
        fields["vocab_size"],
        merge_across_words=fields.get("merge_across_words", False),
    )
    vision = fields["vision_config"]
    sizes = {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    return LlaveProcessor(tokenizer, **sizes, **arguments.processor)
