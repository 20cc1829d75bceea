"""The published checkpoints of tests/fixtures/model as a model and its processor; see the README there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import LlavaOnevisionConfig, PreTrainedTokenizerFast

from llave_hf import LlaveConfig, LlaveModel, LlaveProcessor

ROOT = Path(__file__).parent / "fixtures" / "model"
SETS = ("tiny_2x2", "tiny_6x6")

# Prefixes of the published parameter names, the longest first.
_RENAMED = {
    "model.vision_tower.vision_tower.vision_model.": "backbone.vision_tower.",
    "model.mm_projector.0.": "backbone.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "backbone.multi_modal_projector.linear_2.",
    "model.image_newline": "backbone.image_newline",
    "model.": "backbone.language_model.",
}
_TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "rope_theta",
    "rms_norm_eps",
    "max_position_embeddings",
)
_VISION_FIELDS = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size")


def cases(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / name / "cases.json").read_text(encoding="utf-8"))


@cache
def published(name: str, video_newline: str) -> tuple[LlaveModel, LlaveProcessor]:
    """The checkpoint `name` of [`SETS`]. Callers must not change what they get."""
    fields = json.loads((ROOT / name / "config.json").read_text())
    tower = json.loads((ROOT / name / "vision_tower_geometry.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(ROOT / "tokenizer.json"),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
    )
    image_id, video_id = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    backbone_config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            "num_hidden_layers": tower["num_hidden_layers_in_checkpoint"],
            **{field: tower[field] for field in _VISION_FIELDS},
        },
        text_config={"model_type": "qwen2", **{field: fields[field] for field in _TEXT_FIELDS}},
        image_token_index=image_id,
        video_token_index=video_id,
        image_grid_pinpoints=fields["image_grid_pinpoints"],
    )
    model = LlaveModel(LlaveConfig(backbone_config=backbone_config, video_newline=video_newline)).eval()
    weights = load_file(ROOT / name / "model.safetensors")
    renamed = {_rename(key): value for key, value in weights.items() if not key.startswith("lm_head")}
    model.load_state_dict(renamed, strict=True)
    processor = LlaveProcessor(
        tokenizer,
        image_size=tower["image_size"],
        patch_size=tower["patch_size"],
        image_grid_pinpoints=fields["image_grid_pinpoints"],
        video_newline=video_newline,
    )
    return model, processor


def _rename(key: str) -> str:
    old = next(prefix for prefix in _RENAMED if key.startswith(prefix))
    return _RENAMED[old] + key[len(old) :]
