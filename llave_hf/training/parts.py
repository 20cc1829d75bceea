"""The parts of a model that can be trained or kept as they are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from llave_hf.backbones_llave import backbone_of
from llave_hf.modeling_llave import LlaveModel


def part_parameters(model: LlaveModel, name: str) -> list[nn.Parameter]:
    """The parameters of the vision tower, the projector or the language model of a backbone, by that name.

    A projector that sits inside the vision tower (Qwen-VL's merger) is the projector's only.
    """
    parts = backbone_of(model.config.backbone_config.model_type).parts
    chosen = _parameters_under(model.backbone, parts[name])
    if name == "vision_tower":
        projector = {id(parameter) for parameter in _parameters_under(model.backbone, parts["projector"])}
        chosen = [parameter for parameter in chosen if id(parameter) not in projector]
    return chosen


def freeze_parts(model: LlaveModel, names: Iterable[str]) -> None:
    """Stops gradients into the named parts, and into the parameters that no embedding depends on.

    No gradient ever reaches the latter, and a distributed wrapper would look for one.
    """
    for name in names:
        for parameter in part_parameters(model, name):
            parameter.requires_grad_(False)
    for parameter in _parameters_under(model.backbone, backbone_of(model.config.backbone_config.model_type).unused):
        parameter.requires_grad_(False)


def _parameters_under(module: nn.Module, paths: Iterable[str]) -> list[nn.Parameter]:
    prefixes = tuple(paths)
    return [
        parameter
        for name, parameter in module.named_parameters()
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
    ]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many are frozen."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters()) - trained
