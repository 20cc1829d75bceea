"""Small backbones with random weights, saved as their publishers save them: transformers' own classes and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers import TEXTS
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from llave_hf.checkpoints.from_scratch import train_tokenizer

KINDS = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
TIMED = ("qwen3_vl", "qwen3_5")  # a video's frames are told their times
# Tokens with which all inputs begin are run once; linear attention has no keys and values that could serve other rows.
SHARING = tuple(kind for kind in KINDS if kind != "qwen3_5")
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_TEXT_OF: dict[str, dict[str, Any]] = {
    "qwen3_vl": {"head_dim": 8},
    "qwen3_5": {
        "head_dim": 16,  # of which half is rotated: the four angles of `_ROPE`
        "rope_parameters": {**_ROPE, "mrope_interleaved": True, "partial_rotary_factor": 0.5},
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
}
_VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4},
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    },
    "qwen3_vl": {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "patch_size": 4,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    },
}
_VISION["qwen3_5"] = {key: value for key, value in _VISION["qwen3_vl"].items() if key != "deepstack_visual_indexes"}
_WIDTHS = (
    *("hidden_size", "intermediate_size", "embed_dim", "out_hidden_size"),
    *("head_dim", "linear_key_head_dim", "linear_value_head_dim"),
)
# Qwen2-VL's template, shortened to what it does with texts, images and videos; Qwen3-VL has no system turn of its own.
_TURNS = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' and @SYSTEM@ %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
)
# Qwen3.5's, likewise: it trims.
_TRIMMED_TURNS = (
    "{% macro rendered(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif part.type == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{% endmacro %}{% for message in messages %}{% set content = rendered(message.content)|trim %}"
    "{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}{% endfor %}"
)


def save_backbone(
    folder: Path, kind: str, *, seed: int = 0, tokenizer: PreTrainedTokenizerFast | None = None, wider: int = 1
) -> Path:
    """A backbone of some ten thousand parameters with its processor, of one of [`KINDS`].

    `wider` multiplies all widths: 4 gives heads of 32 numbers, the fewest that serving engines compute with.
    """
    tokenizer = tokenizer or train_tokenizer(TEXTS, 320)
    torch.manual_seed(seed)
    if kind == "llava_onevision":
        return _save_llava_onevision(folder, tokenizer, wider)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(VISION_TOKENS)}, replace_extra_special_tokens=False
    )
    model_class, config_class, processor_class = {
        "qwen2_vl": (Qwen2VLForConditionalGeneration, Qwen2VLConfig, Qwen2VLProcessor),
        "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, Qwen2_5_VLProcessor),
        "qwen3_vl": (Qwen3VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLProcessor),
        "qwen3_5": (Qwen3_5ForConditionalGeneration, Qwen3_5Config, Qwen3VLProcessor),
    }[kind]
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    text = {**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": {**_ROPE, "mrope_interleaved": True}}
    text |= _TEXT_OF.get(kind, {})
    config = config_class(
        text_config=_widened(text, wider),
        vision_config=_widened(_VISION[kind], wider),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    model_class(config).save_pretrained(folder)
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    video_class = Qwen3VLVideoProcessor if kind in TIMED else Qwen2VLVideoProcessor
    video_size = {"shortest_edge": 16 * 16, "longest_edge": 4 * 32 * 32} if kind in TIMED else size
    processor_class(
        image_processor=Qwen2VLImageProcessor(size=size, **sizes),
        tokenizer=tokenizer,
        video_processor=video_class(size=video_size, cap_pixels_per_frame=True, **sizes),
        chat_template=_template(kind),
    ).save_pretrained(folder)
    return folder


def _template(kind: str) -> str:
    return _TRIMMED_TURNS if kind == "qwen3_5" else _TURNS.replace("@SYSTEM@", str(kind not in TIMED).lower())


def _widened(fields: dict[str, Any], wider: int) -> dict[str, Any]:
    """A configuration with all widths multiplied."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found[name] = _widened(value, wider)
        elif name == "mrope_section":
            found[name] = [part * wider for part in value]
        else:
            found[name] = value * wider if name in _WIDTHS else value
    return found


def _save_llava_onevision(folder: Path, tokenizer: PreTrainedTokenizerFast, wider: int) -> Path:
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    grids = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            "hidden_size": 16 * wider,
            "intermediate_size": 32 * wider,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
        },
        text_config={"model_type": "qwen2", **_widened(_TEXT, wider), "vocab_size": len(tokenizer)},
        image_token_index=image,
        video_token_index=video,
        image_grid_pinpoints=grids,
    )
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    size = {"size": {"height": 28, "width": 28}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.5, 0.5]}
    LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=grids, **size),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    ).save_pretrained(folder)
    return folder
