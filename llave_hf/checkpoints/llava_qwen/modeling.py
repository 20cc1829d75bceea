"""The weights of a published LLaVE checkpoint.

Upstream: DeepLearnXMU/LLaVE, `LlavaQwenForCausalLM`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from llave_hf.errors import UserError
from llave_hf.model.backbone_llava_onevision_llave import IMAGE_TOKEN, VIDEO_TOKEN
from llave_hf.model.configuration_llave import split_hub_arguments
from llave_hf.model.modeling_llave import LlaveModel

from .configuration import LlavaQwenConfig, to_llave_config
from .processing import load_tokenizer
from .vision_towers import VisionTower, find_vision_tower, load_vision_weights

# Regular expressions over published parameter names; the first that fits is used.
KEY_MAPPING: Mapping[str, str] = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "backbone.vision_tower.",
    r"^model\.mm_projector\.0\.": "backbone.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "backbone.multi_modal_projector.linear_2.",
    r"^model\.image_newline$": "backbone.image_newline",
    r"^model\.(embed_tokens|layers|norm)\.": r"backbone.language_model.\1.",
}
_TOWER = "backbone.vision_tower."
# In the files of some checkpoints, and no part of an embedding.
_UNUSED = ("lm_head.", "backbone.vision_tower.head.", "model.vision_tower.vision_tower.vision_model.head.")


class LlavaQwenModel(LlaveModel):
    """Opens as a [`LlaveModel`]; never made itself."""

    config_class = LlavaQwenConfig  # type: ignore[assignment]  # what AutoModel looks for; never instantiated

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """The published weights as a [`LlaveModel`], whose `save_pretrained` writes the native layout.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id in the published layout; weights in safetensors,
                sharded or not, in any floating-point type (kept, unless `dtype` says otherwise).
            **kwargs: As `from_pretrained` takes them, and `vision_tower`: a SigLIP folder or Hub id for a checkpoint
                without vision weights, by default the one that its configuration names.

        Raises:
            UserError: The configuration cannot be followed, weights are missing, or some have no place.
        """
        if pretrained_model_name_or_path is None:
            raise ValueError("LlavaQwenModel opens published checkpoints; name a folder or a Hub id.")
        source = os.fspath(pretrained_model_name_or_path)
        hub, loading = split_hub_arguments(kwargs)
        vision_source = loading.pop("vision_tower", None)
        with_info = loading.pop("output_loading_info", False)
        loading.pop("config", None)
        published = LlavaQwenConfig.from_pretrained(source, **hub)
        tower = find_vision_tower(published.fields, source, hub)
        tokenizer = load_tokenizer(published, source, hub)
        image_id, video_id = tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, VIDEO_TOKEN])
        config = to_llave_config(published, tower, image_id, video_id)
        model, info = LlaveModel.from_pretrained(
            source, config=config, key_mapping=dict(KEY_MAPPING), output_loading_info=True, **hub, **loading
        )
        _finish_weights(model, info, tower, source, vision_source)
        return (model, info) if with_info else model


def _finish_weights(
    model: LlaveModel, info: Mapping[str, Any], tower: VisionTower, source: str, vision_source: str | None
) -> None:
    """Nothing may stay at random values, and nothing of the file may be dropped unsaid."""
    missing = sorted(info["missing_keys"])
    unexpected = sorted(key for key in info["unexpected_keys"] if not key.startswith(_UNUSED))
    if unexpected:
        raise UserError(
            f"the weights of {source} hold {_listed(unexpected)}, which have no place in the model that its "
            "config.json describes; the two do not belong together."
        )
    in_tower = {name for name, _ in model.named_parameters() if name.startswith(_TOWER)}
    if set(missing) >= in_tower:
        weights = load_vision_weights(tower, vision_source, model.backbone.vision_tower.dtype)
        model.backbone.vision_tower.load_state_dict(weights.state_dict(), strict=True)
        missing = [name for name in missing if name not in in_tower]
    if missing:
        raise UserError(
            f"the weights of {source} lack {_listed(missing)}; they would stay random. Download the checkpoint again."
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
