"""The order in which a rank runs its micro-batches, and the fillers that keep ranks in step.

DDP exchanges gradients once a step, in the backward of the last micro-batch: ranks may run as many as they like before
it. Where parameters are spread over ranks (FSDP, ZeRO-3), every forward of a module gathers its parameters from all
ranks, and DeepSpeed exchanges gradients in each backward: all ranks must run the same parts in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from llave_hf import distributed
from llave_hf.training.engines.engines import Engine

from .grad_cache import Part
from .trial import VISUAL_INPUTS, MicroBatch, kind_of

IMAGE, VIDEO = VISUAL_INPUTS
# Of micro-batches, by their visual inputs, in the order in which they run. What reaches every part of a model comes
# last: a video need not reach the vector that separates rows of a picture.
KINDS: tuple[tuple[str, ...], ...] = ((), (VIDEO,), (IMAGE, VIDEO), (IMAGE,))


def tower_calls(micro_batch: MicroBatch) -> int:
    """How often a micro-batch runs the vision tower: 0 for texts, once for images, once for videos."""
    return len(kind_of(micro_batch))


def kind_number(micro_batch: MicroBatch) -> int:
    """The place of its kind in `KINDS`."""
    return KINDS.index(kind_of(micro_batch))


def order_parts(
    micro_batches: Sequence[MicroBatch],
    processor: Any,
    engine: Engine,
    *,
    device: torch.device,
    backwards: bool = True,
) -> list[Part]:
    """Micro-batches by kind, the texts first, with fillers where ranks need them.

    Args:
        micro_batches: This rank's, in the order of their rows.
        processor: A `LlaveProcessor`; makes the fillers.
        engine: What it asks for, see [`step_engine`].
        device: Where counts are exchanged.
        backwards: Whether each has a backward of its own; else one backward is the first and the last.
    """
    by_kind: list[list[Part]] = [[] for _ in KINDS]
    for place, micro_batch in enumerate(micro_batches):
        by_kind[kind_number(micro_batch)].append(Part(micro_batch, place))
    wanted = [len(parts) for parts in by_kind]
    images = KINDS.index((IMAGE,))
    ends = engine.first + engine.last if backwards else max(engine.first, engine.last)
    wanted[images] = max(wanted[images], ends)
    if engine.alike:
        counts = distributed.all_gather(torch.tensor(wanted, device=device))
        wanted = counts.view(-1, len(wanted)).amax(0).tolist()
    for kind, (parts, count) in enumerate(zip(by_kind, wanted, strict=True)):
        if len(parts) < count:
            parts += [Part(make_filler(processor, kind), None)] * (count - len(parts))
    front = [by_kind[images].pop(0)] if engine.first else []
    return [*front, *(part for parts in by_kind for part in parts)]


def step_engine(engine: Engine, *, language_trains: bool, others_train: bool) -> Engine:
    """What an engine asks for, given what is trained.

    Args:
        engine: Of the run.
        language_trains: Whether the language model is, so that a text alone has a gradient. If not, the last part, in
            whose backward gradients are exchanged, must hold a picture.
        others_train: Whether the projector or the vision tower is. If not, a text reaches all that is trained.
    """
    return replace(
        engine, first=engine.first and others_train, last=(engine.last and others_train) or not language_trains
    )


def in_order(embeddings: torch.Tensor, parts: Sequence[Part]) -> torch.Tensor:
    """`(M, D)` in the order of the batch, from those of these parts; those of fillers are nothing but zeros to it."""
    rows = embeddings.split([len(part.inputs["input_ids"]) for part in parts])
    placed = sorted((part.place, number) for number, part in enumerate(parts) if part.place is not None)
    whole = torch.cat([rows[number] for _, number in placed])
    fillers = [rows[number].sum() for number, part in enumerate(parts) if part.place is None]
    # A rank that did not go backward through its fillers would leave the others waiting.
    return whole + 0 * torch.stack(fillers).sum() if fillers else whole


def make_filler(processor: Any, kind: int) -> MicroBatch:
    """The smallest micro-batch of a kind."""
    picture = Image.new("RGB", (processor.image_size, processor.image_size))
    return dict(
        processor(
            text=[""],
            images=[picture] if IMAGE in KINDS[kind] else None,
            videos=[[picture, picture]] if VIDEO in KINDS[kind] else None,
            return_tensors="pt",
        )
    )
