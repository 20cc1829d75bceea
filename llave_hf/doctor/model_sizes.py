"""How large a recipe's model is, part by part, from its configuration: no weights are loaded."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoConfig

from llave_hf.checkpoints.llava_qwen.configuration import LlavaQwenConfig, to_llave_config
from llave_hf.checkpoints.llava_qwen.vision_towers import find_vision_tower
from llave_hf.model.backbones_llave import backbone_of
from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.recipe.recipe import Recipe
from llave_hf.training.recipe.tuning import PARTS
from llave_hf.training.tuning.parts import part_parameters

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, None: 4}


def config_of(recipe: Recipe) -> LlaveConfig:
    """The configuration of the model that a recipe trains; reads config.json, never weights."""
    arguments = recipe.model
    if arguments.model is None:
        return _from_scratch(arguments.from_scratch or {})
    config = AutoConfig.from_pretrained(arguments.model, revision=arguments.model_revision)
    if isinstance(config, LlaveConfig):
        return config
    if isinstance(config, LlavaQwenConfig):
        hub = {} if arguments.model_revision is None else {"revision": arguments.model_revision}
        return to_llave_config(config, find_vision_tower(config.fields, arguments.model, hub), 0, 1)
    backbone_of(config.model_type, arguments.model)
    return LlaveConfig(backbone_config=config)


def part_sizes(recipe: Recipe) -> dict[str, int]:
    """Parameters of vision tower, projector and language model."""
    model = skeleton(recipe)
    return {part: sum(parameter.numel() for parameter in part_parameters(model, part)) for part in PARTS}


def parameter_bytes(recipe: Recipe) -> int:
    """Of the weights in the type that they are opened in."""
    return sum(part_sizes(recipe).values()) * opened_bytes(recipe)


def opened_bytes(recipe: Recipe) -> int:
    """Of a parameter in the type that the weights are opened in."""
    dtype = recipe.model.dtype if recipe.model.dtype != "auto" else config_of(recipe).backbone_config.dtype
    return _BYTES.get(str(dtype).removeprefix("torch.") if dtype is not None else None, 4)


def skeleton(recipe: Recipe) -> LlaveModel:
    """The model without memory for its weights."""
    return _cached_skeleton(config_of(recipe).to_json_string())


@lru_cache(maxsize=1)
def _cached_skeleton(config: str) -> LlaveModel:
    with torch.device("meta"):
        return LlaveModel(LlaveConfig.from_dict(json.loads(config)))


def _from_scratch(fields: dict[str, Any]) -> LlaveConfig:
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **fields.get("vision_config", {})}
    text = {"model_type": "qwen2", "vocab_size": fields.get("vocab_size"), **fields.get("text_config", {})}
    return LlaveConfig(backbone_config={"model_type": "llava_onevision", "vision_config": vision, "text_config": text})
