"""The order in which a rank runs its micro-batches, and the fillers that keep ranks in step.

DDP exchanges gradients once a step, in the backward of the last micro-batch: ranks may run as many as they like before
it. Where parameters are sharded (FSDP, ZeRO), every forward of a module gathers its parameters from all ranks, so all
ranks must run the same modules in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from llave_hf import distributed

from .grad_cache import Part
from .trial import VISUAL_INPUTS, MicroBatch


def tower_calls(micro_batch: MicroBatch) -> int:
    """How often a micro-batch runs the vision tower: 0 for texts, once for images, once for videos."""
    return sum(micro_batch.get(name) is not None for name in VISUAL_INPUTS)


def order_parts(
    micro_batches: Sequence[MicroBatch],
    processor: Any,
    *,
    sharded: bool,
    texts_train: bool,
    device: torch.device,
) -> list[Part]:
    """Micro-batches by their calls of the vision tower, the texts first, with fillers where ranks need them.

    Args:
        micro_batches: This rank's, in the order of their rows.
        processor: A `LlaveProcessor`; makes the fillers.
        sharded: Whether ranks must run alike.
        texts_train: Whether the embedding of a text alone has a gradient. If not, the last part, in whose backward
            gradients are exchanged, must hold a picture.
        device: Where counts are exchanged.
    """
    by_calls: list[list[Part]] = [[], [], []]
    for place, micro_batch in enumerate(micro_batches):
        by_calls[tower_calls(micro_batch)].append(Part(micro_batch, place))
    wanted = [len(parts) for parts in by_calls]
    if not texts_train and not (wanted[1] or wanted[2]):
        wanted[1] = 1
    if sharded:
        counts = distributed.all_gather(torch.tensor(wanted, device=device))
        wanted = counts.view(-1, len(wanted)).amax(0).tolist()
    for calls, (parts, count) in enumerate(zip(by_calls, wanted, strict=True)):
        if len(parts) < count:
            filler = Part(make_filler(processor, calls), None)
            parts += [filler] * (count - len(parts))
    return [part for parts in by_calls for part in parts]


def make_filler(processor: Any, calls: int) -> MicroBatch:
    """The smallest micro-batch with so many calls of the vision tower."""
    picture = Image.new("RGB", (processor.image_size, processor.image_size))
    return dict(
        processor(
            text=[""],
            images=[picture] if calls > 0 else None,
            videos=[[picture, picture]] if calls > 1 else None,
            return_tensors="pt",
        )
    )
