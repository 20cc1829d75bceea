"""QLoRA: the language model's linear layers in 4 bits, frozen, under an adapter (Dettmers et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from llave_hf.errors import UserError
from llave_hf.model.backbones_llave import BACKBONES
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.recipe.quantization import QuantizationSettings

# transformers looks for these on the model that it is given; a backbone that was opened as one keeps them to itself.
_MARKS = ("is_quantized", "is_loaded_in_4bit", "quantization_method", "hf_quantizer")


def quantization_config(given: Mapping[str, Any]) -> BitsAndBytesConfig:
    """What a model is opened with under a recipe's `quantization`: language models only.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError("quantization needs bitsandbytes; pip install 'llave-hf[qlora]'.")
    settings = QuantizationSettings.of(given)
    others = {
        path for kind in BACKBONES.values() for part in ("vision_tower", "projector") for path in kind.parts[part]
    }
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.type,
        bnb_4bit_use_double_quant=settings.double,
        bnb_4bit_compute_dtype=getattr(torch, settings.compute_dtype),
        llm_int8_skip_modules=sorted(f"(?:{LlaveModel.base_model_prefix}\\.)?{path}" for path in others),
    )


def mark_quantized(model: LlaveModel) -> None:
    """Gives a model the marks of its backbone, by which PEFT and Trainer know that it is quantised."""
    for name in _MARKS:
        if hasattr(model.backbone, name) and not hasattr(model, name):
            setattr(model, name, getattr(model.backbone, name))
