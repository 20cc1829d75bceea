"""Gradient caching: the exact gradient of one loss over more samples than fit into memory at once.

A contrastive loss needs the embeddings of the whole batch, but only the embeddings (Gao et al., 2021, arXiv
2101.06983). So, for micro-batches x and parameters θ, dL/dθ = Σ_x (dL/dE_x)(dE_x/dθ) is taken in three passes:

1. the embeddings E of all micro-batches, without graph, the state of the random generators kept with each;
2. the loss of all embeddings and dL/dE;
3. each micro-batch again, with graph and the same random numbers, and backward with its rows of dL/dE.

In the third pass one micro-batch at a time holds its graph, so memory does not grow with the batch. Micro-batches may
keep the graph of the first pass instead and go backward right after the loss: one forward less for each, for the
memory of its graph; for one of them, no more than the third pass takes anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from .lean_forward import LeanForward
from .tower_memory import TowerMemory
from .trial import MicroBatch


@dataclass(frozen=True)
class Part:
    """A micro-batch in the order in which micro-batches are run.

    Attributes:
        inputs: What the processor gave.
        place: Its number in the batch, which decides where its rows stand; None for a filler, which is run so that
            the ranks keep step and whose gradient is zero.
    """

    inputs: MicroBatch
    place: int | None


class RandomState:
    """The state of torch's generators on the CPU and on one other device, at the time it is made."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._module = None if device.type == "cpu" else torch.get_device_module(device)
        self._state = None if self._module is None else self._module.get_rng_state(device)
        self._device = device

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._module is not None:
            self._module.set_rng_state(self._state, self._device)


def cached_backward(
    parts: Sequence[Part],
    *,
    embed: Callable[[MicroBatch], torch.Tensor],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    backward: Callable[[torch.Tensor], None],
    device: torch.device,
    without_reduction: Callable[[], AbstractContextManager[Any]] = nullcontext,
    tower: TowerMemory | None = None,
    lean: LeanForward | None = None,
    keeps: Collection[int] = (),
    sharing_casts: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> torch.Tensor:
    """Adds the gradient of a loss over all micro-batches to the parameters' gradients.

    Args:
        parts: At least one with a place; the places are 0, 1, ...
        embed: Embeddings `(b, D)` of a micro-batch; is called twice for each, once for those that keep their graph.
        loss_of: The loss of the embeddings `(M, D)` of all micro-batches in order of place. Parameters of its own get
            their gradients here, without what `backward` adds.
        backward: Runs backward from a scalar; may scale it (mixed precision).
        device: Where `embed` runs.
        without_reduction: Entered for all parts but the last, forward and backward: gradients that ranks exchange are
            exchanged once.
        tower: Keeps the features of a frozen vision tower from the first pass to the third.
        lean: Leaves out work of the language model that no embedding needs.
        keeps: The numbers of the parts that keep their graph from the first pass. Not the last one where ranks
            exchange gradients in its backward, as that must come after all others.
        sharing_casts: Autocast, entered around the first pass: each weight is copied to 16 bits once for all graphs
            that are kept, and they hold one copy. (Without gradients autocast makes copies that it does not keep.)

    Returns:
        The loss, without graph.
    """
    tower, lean = tower or TowerMemory.none(), lean or LeanForward()

    def lean_one(inputs: MicroBatch) -> AbstractContextManager[list[MicroBatch]]:
        return lean.of_micro_batches([inputs], holds_backward=True)

    def reduction(number: int) -> AbstractContextManager[Any]:
        return nullcontext() if number == len(parts) - 1 else without_reduction()

    states: dict[int, RandomState] = {}
    kept: dict[int, torch.Tensor] = {}
    rows: list[torch.Tensor] = []

    with sharing_casts() if keeps else nullcontext():
        for number, part in enumerate(parts):
            if number in keeps:
                with reduction(number), lean_one(part.inputs) as (inputs,):
                    kept[number] = embed(inputs)
                rows.append(kept[number].detach())
                continue
            states[number] = RandomState(device)
            with torch.no_grad(), lean_one(part.inputs) as (inputs,), tower.recording(number):
                rows.append(embed(inputs))
    after = RandomState(device)
    loss, gradients = _gradients_of_embeddings(parts, rows, loss_of)

    def backward_of(number: int, embeddings: torch.Tensor) -> None:
        # Texts leave no graph where the language model is frozen.
        if number == len(parts) - 1 or embeddings.requires_grad:
            backward((embeddings * gradients[number]).sum())

    for number in list(kept):
        with reduction(number), lean_one(parts[number].inputs):
            backward_of(number, kept.pop(number))  # popped: its graph goes before the next one is built
    for number, state in states.items():
        state.restore()
        with reduction(number), lean_one(parts[number].inputs) as (inputs,), tower.replaying(number):
            backward_of(number, embed(inputs))
    after.restore()
    return loss


def _gradients_of_embeddings(
    parts: Sequence[Part], rows: Sequence[torch.Tensor], loss_of: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss, and dL/dE for the rows of each part; zeros for a filler."""
    counted = sorted((part.place, number) for number, part in enumerate(parts) if part.place is not None)  # by place
    embeddings = torch.cat([rows[number] for _, number in counted]).requires_grad_()
    with torch.enable_grad():
        loss = loss_of(embeddings)
    loss.backward()  # the embeddings are leaves here; so are parameters of the loss, such as its temperature
    whole = embeddings.grad
    if whole is None:
        raise RuntimeError("the loss does not depend on the embeddings, so there is nothing to train.")
    gradients = [torch.zeros_like(part) for part in rows]
    sizes = [len(rows[number]) for _, number in counted]
    for (_, number), gradient in zip(counted, whole.split(sizes), strict=True):
        gradients[number] = gradient
    return loss.detach(), gradients
