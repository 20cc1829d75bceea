"""Runs one micro-batch to compare a shortcut with the plain forward: its embeddings, and a few gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

MicroBatch = dict[str, Any]

VISUAL_INPUTS = ("pixel_values", "pixel_values_videos")  # each is one call of the vision tower
_FEW = 4  # parameters, where layers are not known


def kind_of(micro_batch: MicroBatch) -> tuple[str, ...]:
    """Which visual inputs a micro-batch holds: what holds for texts need not hold for pictures."""
    return tuple(name for name in VISUAL_INPUTS if micro_batch.get(name) is not None)


def embeddings_and_gradients(model: nn.Module | None, micro_batch: MicroBatch) -> list[torch.Tensor]:
    """The embedding `(D,)` of each row, and the gradient of a weighted sum of them for the [`witnesses`].

    Leaves `.grad`, the random generators and a distributed wrapper as they are: gradients are handed out, not
    accumulated, and `model` is the module within the wrapper.
    """
    if model is None:
        raise ValueError("there is no model to try a micro-batch with.")
    with torch.enable_grad(), random_numbers_kept(micro_batch):
        torch.manual_seed(0)
        embeddings = model(micro_batches=[micro_batch]).embeddings  # (B, D)
        weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0)).to(embeddings)
        chosen = witnesses(model)
        gradients: tuple[torch.Tensor | None, ...] = ()
        if chosen and embeddings.requires_grad:
            gradients = torch.autograd.grad((embeddings * weights).sum(), chosen, allow_unused=True)
    return [*embeddings.detach(), *(gradient for gradient in gradients if gradient is not None)]


def random_numbers_kept(micro_batch: MicroBatch) -> AbstractContextManager[None]:
    """Within it random numbers may be drawn on the device of a micro-batch; what comes after draws the same ones."""
    device = micro_batch["input_ids"].device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def witnesses(model: nn.Module) -> list[nn.Parameter]:
    """Trained parameters whose gradients tell whether all of a backward is right, without a second copy of them all:
    those of the language model's first and last layer, or, where it is frozen, of what stands before it."""
    backbone: Any = model.backbone
    decoder: nn.Module = backbone.language_model
    layers: Any = getattr(decoder, "layers", None)
    if layers:
        ends = [*layers[0].parameters(), *layers[-1].parameters()]
    else:  # of another form; parameters come in the order of layers, the large one of tokens first
        inner = list(decoder.parameters())[1:]
        ends = inner if len(inner) <= 2 * _FEW else [*inner[:_FEW], *inner[-_FEW:]]
    trained = [parameter for parameter in ends if parameter.requires_grad]
    if trained:
        return trained
    return [parameter for parameter in model.parameters() if parameter.requires_grad][-_FEW:]
