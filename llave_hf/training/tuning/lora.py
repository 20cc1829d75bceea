"""LoRA by PEFT: which linear layers get an adapter, and what is trained whole beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import set_seed

from llave_hf.errors import UserError
from llave_hf.model.backbones_llave import backbone_of
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.sentence_transformer_layout_llave import write_sentence_transformer_layout
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.tuning import ALL_LINEAR, LoraSettings, frozen_parts

from .parts import freeze_parts, part_modules


def tuned_model(model: LlaveModel, args: LlaveTrainingArguments) -> Any:
    """Freezes what `args` do not train; with `args.lora`, wraps the model as a `peft.PeftModel`.

    Raises:
        UserError: peft is not installed.
        ValueError: `lora.modules` names a layer that there is not.
    """
    if args.lora is None:
        freeze_parts(model, args.freeze)
        return model
    try:
        from peft import LoraConfig, PeftModel
    except ImportError as error:
        raise UserError("lora needs peft; pip install 'llave-hf[peft]'.") from error
    settings = LoraSettings.of(args.lora)
    whole = "projector" not in settings.parts and "projector" not in frozen_parts(args.freeze, args.lora)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=layer_pattern(list(target_layers(model, settings))),
        modules_to_save=projector_modules(model) if whole else None,
        # No task type: PEFT's own forward of one would put inputs_embeds and others among the inputs.
        base_model_name_or_path=model.name_or_path,
        revision=getattr(model.config, "_commit_hash", None),  # of the Hub
    )
    set_seed(args.seed)  # every rank draws the same A
    return PeftModel(model, config)


def without_peft(model: Any) -> LlaveModel:
    """The model itself, its adapters in place."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def save_beside_adapter(model: Any, folder: str | os.PathLike[str]) -> None:
    """Writes into an adapter's folder what sentence-transformers opens it by."""
    if hasattr(model, "peft_config"):
        write_sentence_transformer_layout(folder, model.config.hidden_size, model.config.normalize)


def target_layers(model: LlaveModel, settings: LoraSettings) -> dict[str, nn.Linear]:
    """The linear layers that get an adapter, by name in the model.

    Raises:
        ValueError: `settings.modules` names a layer that the parts have not.
    """
    layers = {
        f"{model.base_model_prefix}.{path}": module
        for part in settings.parts
        for path, module in part_modules(model, part).items()
        if isinstance(module, nn.Linear)
    }
    if settings.modules == ALL_LINEAR:
        return layers
    own_names = {name.rpartition(".")[2] for name in layers}
    if missing := sorted(set(settings.modules) - own_names):
        raise ValueError(
            f"lora.modules names {', '.join(missing)}; the linear layers of {', '.join(settings.parts)} are "
            f"{', '.join(sorted(own_names))}."
        )
    return {name: layer for name, layer in layers.items() if name.rpartition(".")[2] in settings.modules}


def layer_pattern(names: Sequence[str]) -> str:
    """A regular expression that matches these layers, and those of the same place in any other layer of the stack.

    >>> layer_pattern(["a.layers.0.q", "a.layers.1.q", "a.mlp.0"])
    'a\\\\.layers\\\\.\\\\d+\\\\.q|a\\\\.mlp\\\\.0'
    """
    return "|".join(sorted({_generalised(name) for name in names}))


def _generalised(name: str) -> str:
    *places, own = name.split(".")
    return r"\.".join([r"\d+" if place.isdigit() else place for place in places] + [own])


def projector_modules(model: LlaveModel) -> list[str]:
    """The projector's modules by name in the model; PEFT takes none that is a list, and no bare parameter."""
    names = []
    for path in backbone_of(model.config.backbone_config.model_type).parts["projector"]:
        owner, _, own = path.rpartition(".")
        module = getattr(model.backbone.get_submodule(owner), own, None)
        if isinstance(module, nn.ModuleList):
            names += [f"{model.base_model_prefix}.{path}.{number}" for number in range(len(module))]
        elif isinstance(module, nn.Module):
            names.append(f"{model.base_model_prefix}.{path}")
    return names
