"""The configuration of a published LLaVE checkpoint, and what it means in [`LlaveConfig`]'s words.

Upstream: DeepLearnXMU/LLaVE, llava/train/train.py (`ModelArguments`) and llava/model/llava_arch.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from llave_hf.errors import UserError
from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.model.geometry_llave import swapped

if TYPE_CHECKING:
    from .vision_towers import VisionTower

# What a configuration that leaves a field out means: the published training script's values.
DEFAULTS: Mapping[str, Any] = {
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(2x2)",
    "mm_newline_position": "one_token",
    "tokenizer_model_max_length": 4096,
}
# Fields with one value that the published models were trained with; any other changes the vectors.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "image_aspect_ratio": ("anyres_max_9",),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("spatial_unpad",),
    "mm_resampler_type": (None,),
    "mm_spatial_pool_mode": ("bilinear",),
    "mm_spatial_pool_stride": (None, 2),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "add_faster_video": (False,),
}
_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_TEXT_FIELDS = (
    *_REQUIRED,
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "attention_dropout",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class LlavaQwenConfig(PreTrainedConfig):
    """The fields of a published checkpoint's config.json, as they stand there."""

    model_type = "llava_qwen"
    opens_as_llave = True

    def __init__(self, **fields: Any) -> None:
        # transformers would check and rewrite the language model's fields, which are Qwen2's and not this class's.
        name = os.fspath(fields.pop("name_or_path", None) or "")
        self.fields = {key: value for key, value in fields.items() if not key.startswith("_")}
        super().__init__(name_or_path=name, architectures=fields.get("architectures"), dtype=fields.get("torch_dtype"))

    def value(self, name: str) -> Any:
        """A field's value, or what leaving it out means."""
        value = self.fields.get(name)
        return DEFAULTS.get(name) if value is None else value

    def defaulted(self) -> dict[str, Any]:
        """The fields that are left out, and what is taken for them."""
        return {name: value for name, value in DEFAULTS.items() if self.fields.get(name) is None}


def to_llave_config(config: LlavaQwenConfig, tower: VisionTower, image_id: int, video_id: int) -> LlaveConfig:
    """The same model as a [`LlaveConfig`].

    Args:
        config: As published.
        tower: The vision tower's geometry, which a published configuration only names.
        image_id, video_id: Of the tokens `<image>` and `<video>`, in spare rows of the embedding matrix.

    Raises:
        UserError: A field is missing that cannot be known, or has a value that this package does not compute.
    """
    from transformers import LlavaOnevisionConfig, Qwen2Config

    check_fields(config)
    text = {name: config.fields[name] for name in _TEXT_FIELDS if name in config.fields}
    text_config = Qwen2Config(**text)
    backbone_config = LlavaOnevisionConfig(
        vision_config=tower.to_config(),
        text_config=text_config.to_dict(),
        image_token_index=image_id,
        video_token_index=video_id,
        image_grid_pinpoints=swapped(grids(config, tower.image_size)),
        tie_word_embeddings=bool(config.fields.get("tie_word_embeddings", False)),
    )
    return LlaveConfig(
        backbone_config=backbone_config,
        video_newline=config.value("mm_newline_position"),
        unpad_rounding="truncate",
        dtype=config.fields.get("torch_dtype"),
    )


def check_fields(config: LlavaQwenConfig) -> None:
    """Refuses what would give other vectors than the published code's."""
    if missing := [name for name in _REQUIRED if config.fields.get(name) is None]:
        raise UserError(
            f"config.json of the llava_qwen checkpoint has no {', '.join(missing)}; the language model's shape cannot "
            "be known without: take the config.json that was published with the weights."
        )
    for name, allowed in _ONLY.items():
        if name in config.fields and config.fields[name] not in allowed:
            raise UserError(
                f"config.json says {name}: {config.fields[name]!r}; llave_hf computes "
                f"{' or '.join(repr(value) for value in allowed if value is not None or len(allowed) == 1)} only, as "
                "the published LLaVE models are trained."
            )


def grids(config: LlavaQwenConfig, image_size: int) -> list[list[int]]:
    """`image_grid_pinpoints` as (width, height) in pixels, from the list or from the form `"(1x1),...,(2x2)"`."""
    given = config.value("image_grid_pinpoints")
    if isinstance(given, str):
        found = re.findall(r"\((\d+)x(\d+)\)", given)
        if not found:
            raise UserError(
                f"config.json says image_grid_pinpoints: {given!r}; write '(1x1),...,(2x2)' or a list of sizes."
            )
        (left, top), (right, bottom) = ([int(value) for value in found[place]] for place in (0, -1))
        return [[i * image_size, j * image_size] for i in range(left, right + 1) for j in range(top, bottom + 1)]
    return _checked(given, image_size)


def _checked(pinpoints: Sequence[Sequence[int]], image_size: int) -> list[list[int]]:
    for pinpoint in pinpoints:
        if len(pinpoint) != 2 or any(side % image_size for side in pinpoint):
            raise UserError(
                f"config.json has {list(pinpoint)} in image_grid_pinpoints; each must be a width and a height that "
                f"are multiples of the vision tower's {image_size} pixels."
            )
    return [list(pinpoint) for pinpoint in pinpoints]
