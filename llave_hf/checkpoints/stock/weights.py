"""Weights and config of transformers' own class, under the names that the backbone's publisher gave them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedConfig

from llave_hf.model.modeling_llave import LlaveModel


@dataclass(frozen=True)
class StockClass:
    """A class of transformers and the names of its weights.

    Args:
        name: In `architectures`: by it a server chooses its own implementation.
        prefixes: From the beginning of a weight's name in the backbone to that in the published files. transformers
            and serving engines rename these; names that transformers happens to save a model under are not always
            known to engines.
        interleaved: Whether the axes of a picture's positions are interleaved. transformers' classes know it, engines
            ask the config; None where positions have one axis.
    """

    name: str
    prefixes: dict[str, str]
    interleaved: bool | None = None


_LATER_QWEN = {"language_model.": "model.language_model.", "visual.": "model.visual."}
_EARLIER_QWEN = {"language_model.": "model.", "visual.": "visual."}
STOCK_CLASSES = {
    "llava_onevision": StockClass(
        "LlavaOnevisionForConditionalGeneration",
        {
            "language_model.": "language_model.model.",
            "vision_tower.": "vision_tower.vision_model.",
            "multi_modal_projector.": "multi_modal_projector.",
            "image_newline": "image_newline",
        },
    ),
    "qwen2_vl": StockClass("Qwen2VLForConditionalGeneration", _EARLIER_QWEN, interleaved=False),
    "qwen2_5_vl": StockClass("Qwen2_5_VLForConditionalGeneration", _EARLIER_QWEN, interleaved=False),
    "qwen3_vl": StockClass("Qwen3VLForConditionalGeneration", _LATER_QWEN, interleaved=True),
    "qwen3_5": StockClass("Qwen3_5ForConditionalGeneration", _LATER_QWEN, interleaved=True),
}


def save_stock_weights(model: LlaveModel, folder: Path) -> None:
    """Writes `model.safetensors` (in shards where it is large) and `config.json`."""
    stock = STOCK_CLASSES[model.config.backbone_config.model_type]
    folder.mkdir(parents=True, exist_ok=True)
    _stock_config(model, stock).save_pretrained(folder)
    save_torch_state_dict(published_names(model, stock), folder)


def published_names(model: LlaveModel, stock: StockClass) -> dict[str, torch.Tensor]:
    """The backbone's weights by their names in published files.

    Raises:
        ValueError: A weight has no such name.
    """
    named: dict[str, torch.Tensor] = {}
    for name, tensor in model.backbone.state_dict().items():
        prefix = next((prefix for prefix in stock.prefixes if name.startswith(prefix)), None)
        if prefix is None:
            raise ValueError(f"{stock.name} has no place for the weight {name!r}, so the model cannot be exported.")
        named[stock.prefixes[prefix] + name.removeprefix(prefix)] = tensor
    return named


def _stock_config(model: LlaveModel, stock: StockClass) -> PreTrainedConfig:
    config = copy.deepcopy(model.config.backbone_config)
    config.architectures = [stock.name]
    config.name_or_path = ""
    # An embedding model has no head; tied to the token embeddings it needs no weights of its own.
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    config.dtype = model.dtype
    if stock.interleaved is not None:
        positions = config.text_config.rope_parameters
        positions.pop("mrope_interleaved", None)
        if stock.interleaved:
            positions["mrope_interleaved"] = True
    if model.config.matryoshka_dimensions:
        config.matryoshka_dimensions = model.config.matryoshka_dimensions  # vLLM asks for it before it cuts a vector
    return config
