"""Which micro-batches of gradient caching keep their graph: those that save the most work within a budget of bytes.

Sizes are estimated from the configuration and the shapes of a micro-batch ([`activations`]), so that a resumed run
chooses as the first one did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.tuning import frozen_parts

from .activations import activation_bytes, weights_of
from .trial import VISUAL_INPUTS, MicroBatch

GIB = 2**30
UNITS = 1024  # that a budget is counted in
COLOURS = 3


class GraphMemory:
    """Chooses the micro-batches that run forward once and keep their graph.

    One micro-batch at a time holds its graph anyway, so graphs that take no more than the largest cost nothing.

    Args:
        config: Of the model.
        args: `graph_memory_gb`, and what is trained, checkpointed and computed in.
        tower_runs_twice: Whether a micro-batch that does not keep its graph runs through the vision tower again.
        casts: Bytes of the copies of weights that autocast makes, which all graphs share.
    """

    def __init__(
        self, config: LlaveConfig, args: LlaveTrainingArguments, *, tower_runs_twice: bool, casts: int = 0
    ) -> None:
        self.bytes = activation_bytes(config, args)
        self.casts = casts
        self.budget = args.graph_memory_gb * GIB
        weights = weights_of(config)
        self._work = weights if tower_runs_twice else weights._replace(patch=0.0)
        self._texts_are_free = "language_model" in frozen_parts(args.freeze, args.lora)
        vision = config.backbone_config.vision_config
        self._patch_numbers = COLOURS * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)

    def size(self, micro_batch: MicroBatch) -> float:
        """Bytes of its graph without casts, about; padding is counted, tokens that rows share are counted for each."""
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
        return most_work(sizes[:end], work[:end], max(self.budget - self.casts, *sizes))

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
