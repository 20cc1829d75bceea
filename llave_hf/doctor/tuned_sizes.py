"""How much of a model a recipe trains, and what its weights, gradients and optimizer take."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from llave_hf.training.recipe.quantization import QuantizationSettings
from llave_hf.training.recipe.recipe import Recipe
from llave_hf.training.recipe.tuning import PARTS, LoraSettings, frozen_parts
from llave_hf.training.tuning.lora import projector_modules, target_layers
from llave_hf.training.tuning.parts import part_modules, part_parameters, unused_parameters

from .model_sizes import opened_bytes, part_sizes, skeleton

BLOCK, OUTER_BLOCK = 64, 256  # bitsandbytes: 4-bit numbers that share a scale, and scales that share one in turn


@dataclass(frozen=True)
class TunedSizes:
    """Of one device without sharding.

    Attributes:
        whole: Parameters that are trained as they are.
        adapters: Parameters of adapters.
        weights: Bytes of all weights.
        states: Bytes of gradients and of AdamW's two moments.
    """

    whole: int
    adapters: int
    weights: float
    states: float

    @property
    def trained(self) -> int:
        return self.whole + self.adapters


def tuned_sizes(recipe: Recipe) -> TunedSizes:
    """From the recipe and the shapes of its model."""
    args = recipe.training
    whole = trained_parameters(recipe)
    kept = sum(part_sizes(recipe).values()) - whole
    adapters = adapter_parameters(recipe)
    master = 2 if args.master_weights == "bfloat16" else 4
    autocast = args.bf16 or args.fp16
    width = opened_bytes(recipe) if autocast and master == 4 else master  # of what is not trained
    packed, packed_width = quantised_parameters(recipe)
    weights = (whole + adapters) * master + (kept - packed) * width + packed * packed_width
    return TunedSizes(whole, adapters, weights, (whole + adapters) * master * 3)


def trained_parameters(recipe: Recipe) -> int:
    """Of the model itself: of its parts that are neither frozen nor adapted, but for what no embedding depends on."""
    args, model = recipe.training, skeleton(recipe)
    adapted = LoraSettings.of(args.lora).parts if args.lora is not None else ()
    left_out = {*frozen_parts(args.freeze, args.lora), *adapted}
    of_parts = {part: part_parameters(model, part) for part in PARTS if part not in left_out}
    if args.lora is not None and "projector" in of_parts:  # PEFT trains modules
        modules = [model.get_submodule(name) for name in projector_modules(model)]
        of_parts["projector"] = [parameter for module in modules for parameter in module.parameters()]
    unused = set(map(id, unused_parameters(model)))
    trained = {id(p): p.numel() for parameters in of_parts.values() for p in parameters if id(p) not in unused}
    return sum(trained.values())


def adapter_parameters(recipe: Recipe) -> int:
    """A layer of n inputs and m outputs gets r (n + m)."""
    if recipe.training.lora is None:
        return 0
    settings = LoraSettings.of(recipe.training.lora)
    layers = target_layers(skeleton(recipe), settings).values()
    return sum(settings.r * (layer.in_features + layer.out_features) for layer in layers)


def quantised_parameters(recipe: Recipe) -> tuple[int, float]:
    """How many parameters are in 4 bits, and bytes of one with its share of the scales."""
    if recipe.model.quantization is None:
        return 0, 0.0
    modules = part_modules(skeleton(recipe), "language_model").values()
    count = sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear))
    double = QuantizationSettings.of(recipe.model.quantization).double
    scale = 1 + 4 / OUTER_BLOCK if double else 4
    return count, 0.5 + scale / BLOCK
