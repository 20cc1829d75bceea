"""The parts of a model (vision tower, projector, language model): their parameters and modules, and freezing them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn

from llave_hf.model.backbones_llave import backbone_of
from llave_hf.model.modeling_llave import LlaveModel

_Found = TypeVar("_Found")
# What FSDP1, torch.compile and activation checkpointing put between the names of modules.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")


def part_parameters(model: LlaveModel, name: str) -> list[nn.Parameter]:
    """The parameters of the vision tower, the projector or the language model of a backbone, by that name.

    A projector that sits inside the vision tower (Qwen-VL's merger) is the projector's only.
    """
    return list(_part(model, name, dict(model.backbone.named_parameters())).values())


def part_modules(model: LlaveModel, name: str) -> dict[str, nn.Module]:
    """The modules of a part, likewise, by their names in the backbone; without those that no embedding depends on."""
    modules = _part(model, name, dict(model.backbone.named_modules()))
    unused = _under(modules, backbone_of(model.config.backbone_config.model_type).unused)
    return {path: module for path, module in modules.items() if path not in unused}


def freeze_parts(model: LlaveModel, names: Iterable[str]) -> None:
    """Stops gradients into the named parts, and into the parameters that no embedding depends on.

    No gradient ever reaches the latter, and a distributed wrapper would look for one.
    """
    for name in names:
        for parameter in part_parameters(model, name):
            parameter.requires_grad_(False)
    for parameter in unused_parameters(model):
        parameter.requires_grad_(False)


def unused_parameters(model: LlaveModel) -> list[nn.Parameter]:
    """The parameters that no embedding depends on, in any part."""
    unused = backbone_of(model.config.backbone_config.model_type).unused
    return list(_under(dict(model.backbone.named_parameters()), unused).values())


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many are frozen; of 4-bit weights each of the two in a byte counts.

    What PEFT keeps of a module that is trained whole, as it was at first, is no part of the model.
    """
    counted = {name: parameter for name, parameter in model.named_parameters() if ".original_module." not in name}
    trained = sum(_numel(p) for p in counted.values() if p.requires_grad)
    return trained, sum(map(_numel, counted.values())) - trained


def _numel(parameter: nn.Parameter) -> int:
    packed = getattr(parameter, "quant_state", None)  # of bitsandbytes
    if packed is not None:
        return int(packed.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # of ZeRO-3, where a parameter by itself is empty


def _part(model: LlaveModel, name: str, found: Mapping[str, _Found]) -> dict[str, _Found]:
    parts = backbone_of(model.config.backbone_config.model_type).parts
    chosen = _under(found, parts[name])
    if name == "vision_tower":
        projector = _under(found, parts["projector"])
        chosen = {path: value for path, value in chosen.items() if path not in projector}
    return chosen


def _under(found: Mapping[str, _Found], paths: Iterable[str]) -> dict[str, _Found]:
    prefixes = tuple(paths)
    plain = {path: _WRAPPERS.sub("", path) for path in found}
    return {
        path: value
        for path, value in found.items()
        if any(plain[path] == prefix or plain[path].startswith(f"{prefix}.") for prefix in prefixes)
    }
