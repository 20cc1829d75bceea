"""Which micro-batches of gradient caching keep their graph: those that save the most work within a budget of bytes.

Sizes are estimated from the configuration and the shapes of a micro-batch, so that a resumed run chooses as the first
one did. Of a decoder layer autograd keeps about 11 x hidden + 3 x intermediate numbers a token, which gives 1.2, 2.5
and 5.4 MB a token for the 0.5B, 2B and 7B models in 16 bits (measured: 1.2, 2.6, 5.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.tuning import frozen_parts

from .trial import VISUAL_INPUTS, MicroBatch

GIB = 2**30
UNITS = 1024  # that a budget is counted in
COLOURS = 3


class Activations(NamedTuple):
    """What autograd keeps, in bytes: of a token in the language model, and of a patch in the vision tower."""

    token: float
    patch: float


class GraphMemory:
    """Chooses the micro-batches that run forward once and keep their graph.

    One micro-batch at a time holds its graph anyway, so graphs that take no more than the largest cost nothing.

    Args:
        config: Of the model.
        args: `graph_memory_gb`, and what is trained, checkpointed and computed in.
        tower_runs_twice: Whether a micro-batch that does not keep its graph runs through the vision tower again.
    """

    def __init__(self, config: LlaveConfig, args: LlaveTrainingArguments, *, tower_runs_twice: bool) -> None:
        self.bytes = activation_bytes(config, args)
        self.budget = args.graph_memory_gb * GIB
        weights = _weights_of(config)
        self._work = weights if tower_runs_twice else weights._replace(patch=0.0)
        self._texts_are_free = "language_model" in frozen_parts(args.freeze, args.lora)
        vision = config.backbone_config.vision_config
        self._patch_numbers = COLOURS * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)

    def size(self, micro_batch: MicroBatch) -> float:
        """Bytes of its graph, about; padding is counted, tokens that rows share are counted for each."""
        patches = self._patches(micro_batch)
        if self._texts_are_free and not patches:
            return 0.0
        return self.bytes.token * micro_batch["input_ids"].numel() + self.bytes.patch * patches

    def chosen(self, micro_batches: Sequence[MicroBatch], *, but_last: bool) -> set[int]:
        """The numbers of those that keep their graph.

        Args:
            micro_batches: All of a step, in the order in which they run.
            but_last: Whether the last one must not be among them.
        """
        sizes = [self.size(one) for one in micro_batches]
        work = [
            self._work.token * one["input_ids"].numel() + self._work.patch * self._patches(one)
            for one in micro_batches
        ]
        end = len(sizes) - int(but_last)
        return most_work(sizes[:end], work[:end], max(self.budget, *sizes))

    def _patches(self, micro_batch: MicroBatch) -> float:
        given = (micro_batch.get(name) for name in VISUAL_INPUTS)
        return sum(pixels.numel() for pixels in given if pixels is not None) / self._patch_numbers


def most_work(sizes: Sequence[float], work: Sequence[float], room: float) -> set[int]:
    """The numbers of the items that make the most work within `room`, by dynamic programming.

    Sizes are rounded up to 1/1024 of the room, so that it is never exceeded.
    """
    if sum(sizes) <= room:
        return set(range(len(sizes)))
    units = [int(np.ceil(size * UNITS / room)) for size in sizes]
    best = np.zeros(UNITS + 1)  # work, by units of room
    taken = np.zeros((len(sizes), UNITS + 1), dtype=bool)
    for number, (unit, gain) in enumerate(zip(units, work, strict=True)):
        if unit > UNITS:
            continue
        with_it = np.concatenate((np.full(unit, -np.inf), best[: UNITS + 1 - unit] + gain))
        taken[number] = with_it > best
        best = np.maximum(best, with_it)
    left, found = UNITS, set()
    for number in reversed(range(len(sizes))):
        if taken[number, left]:
            found.add(number)
            left -= units[number]
    return found


def activation_bytes(config: LlaveConfig, args: LlaveTrainingArguments) -> Activations:
    """Of a model that is trained so; nothing for the patches of a frozen tower, of which no layer is kept."""
    width = 2 if args.bf16 or args.fp16 else 4
    text = _text_shape(config)
    token = _numbers(text, 3, checkpointed=is_checkpointed(args, "language_model"))
    patch = 0.0
    if "vision_tower" not in frozen_parts(args.freeze, args.lora):
        patch = _numbers(_vision_shape(config), 2, checkpointed=is_checkpointed(args, "vision_tower"))
    return Activations(token * width, patch * width)


def is_checkpointed(args: LlaveTrainingArguments, part: str) -> bool:
    """Whether the layers of a part keep their inputs alone."""
    return bool(args.gradient_checkpointing) and (args.checkpoint_parts is None or part in args.checkpoint_parts)


class _Shape(NamedTuple):
    """Of a stack of layers; `key_share` is the width of keys by that of queries."""

    depth: int
    width: int
    inner: float
    key_share: float = 1.0


def _text_shape(config: LlaveConfig) -> _Shape:
    text = config.get_text_config()
    share = text.num_key_value_heads / text.num_attention_heads
    return _Shape(text.num_hidden_layers, text.hidden_size, text.intermediate_size, share)


def _vision_shape(config: LlaveConfig) -> _Shape:
    vision = config.backbone_config.vision_config
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    width = getattr(vision, "embed_dim", None) or vision.hidden_size  # Qwen2-VL's hidden_size is what it gives
    return _Shape(depth, width, getattr(vision, "intermediate_size", None) or width * vision.mlp_ratio)


def _numbers(shape: _Shape, inner_copies: int, *, checkpointed: bool) -> float:
    """That a stack keeps of a token; checkpointed, the inputs of its layers and one layer at a time."""
    layer = 11 * shape.width + inner_copies * shape.inner
    return shape.depth * shape.width + layer if checkpointed else shape.depth * layer


def _weights_of(config: LlaveConfig) -> Activations:
    """Weights that a token, and a patch, is multiplied with: the work of a forward."""
    text, vision = _text_shape(config), _vision_shape(config)
    return Activations(
        *(
            shape.depth * shape.width * (2 * shape.width * (1 + shape.key_share) + matrices * shape.inner)
            for shape, matrices in ((text, 3), (vision, 2))
        )
    )
