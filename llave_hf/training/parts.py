"""The parts of a model that can be trained or kept as they are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from llave_hf.modeling_llave import LlaveModel


def part(model: LlaveModel, name: str) -> nn.Module:
    """The vision tower, projector or language model of a backbone, by that name."""
    backbone = model.backbone
    attribute = {
        "vision_tower": "vision_tower",
        "projector": "multi_modal_projector",
        "language_model": "language_model",
    }
    return getattr(backbone, attribute[name])


def freeze_parts(model: LlaveModel, names: Iterable[str]) -> None:
    """Stops gradients into the named parts, and into the parameters that no embedding depends on.

    The latter are SigLIP's last layer norm: visual features are taken before it, so no gradient ever reaches it, and
    a distributed wrapper would look for one.
    """
    for name in names:
        part(model, name).requires_grad_(False)
        if name == "projector":
            model.backbone.image_newline.requires_grad_(False)
    unused = getattr(model.backbone.vision_tower, "post_layernorm", None)
    if unused is not None:
        unused.requires_grad_(False)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many are frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters()) - trained
