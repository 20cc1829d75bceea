"""QLoRA: the language model's linear layers in 4 bits, frozen, under an adapter (Dettmers et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

import torch

from llave_hf.errors import UserError
from llave_hf.model.backbones_llave import BACKBONES
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.recipe.arguments import LlaveTrainingArguments

# transformers looks for these on the model that it is given; a backbone that was opened as one keeps them to itself.
_MARKS = ("is_quantized", "is_loaded_in_4bit", "quantization_method", "hf_quantizer")

_WHOLE = ("vision_tower", "projector")


@dataclass(frozen=True)
class QuantizationSettings:
    """A recipe's `quantization`.

    Attributes:
        bits: 4.
        type: `nf4` or `fp4`.
        double: Whether the scales of the blocks are quantised too.
        compute_dtype: What a layer's product is computed in: `bfloat16`, `float16` or `float32`.
    """

    bits: int = 4
    type: str = "nf4"
    double: bool = True
    compute_dtype: str = "bfloat16"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> QuantizationSettings:
        """Reads the mapping of a recipe.

        Raises:
            ValueError: A key or value is none that there is.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"quantization has the keys {', '.join(unknown)}; it takes {', '.join(known)}.")
        made = cls(**given)
        allowed = {
            "bits": (4,),
            "type": ("nf4", "fp4"),
            "double": (True, False),
            "compute_dtype": ("bfloat16", "float16", "float32"),
        }
        for name, values in allowed.items():
            if getattr(made, name) not in values:
                raise ValueError(
                    f"quantization.{name} is {getattr(made, name)!r}; choose {', '.join(map(str, values))}."
                )
        return made


def check_quantization(given: Mapping[str, Any] | None, args: LlaveTrainingArguments) -> None:
    """Refuses settings under which nothing could be trained.

    Raises:
        ValueError: Names the key and what to do.
    """
    if given is None:
        return
    QuantizationSettings.of(given)
    if args.lora is None:
        raise ValueError(
            "quantization leaves 4-bit weights, which cannot be trained; add lora, such as lora: {r: 16}."
        )
    if not args.bf16:
        raise ValueError("quantization needs bf16: true, which lets 4-bit, frozen and trained parts meet; add it.")


def quantization_config(given: Mapping[str, Any]) -> Any:
    """The `BitsAndBytesConfig` of a recipe's `quantization`: language models only.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError("quantization needs bitsandbytes; pip install 'llave-hf[qlora]'.")
    from transformers import BitsAndBytesConfig

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
