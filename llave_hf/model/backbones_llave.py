"""The backbones by transformers' `model_type`. Self-contained: the file travels with a model to the Hub."""

from __future__ import annotations

from .backbone_llava_onevision_llave import LLAVA_ONEVISION
from .backbone_llave import Backbone
from .backbone_qwen3_5_llave import QWEN3_5
from .backbone_qwen_vl_llave import QWEN3_VL, QWEN_VL

BACKBONES: dict[str, Backbone] = {
    "llava_onevision": LLAVA_ONEVISION,
    "qwen2_vl": QWEN_VL,
    "qwen2_5_vl": QWEN_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_5": QWEN3_5,
}


def backbone_of(model_type: str, name: str = "the backbone") -> Backbone:
    """The [`Backbone`] of a `model_type`.

    Raises:
        ValueError: There is none; names those that there are.
    """
    if model_type not in BACKBONES:
        raise ValueError(
            f"{name} is a {model_type!r} model, which is no backbone for an embedding model here; use one of "
            f"{', '.join(BACKBONES)}."
        )
    return BACKBONES[model_type]
