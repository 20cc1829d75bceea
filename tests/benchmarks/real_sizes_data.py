"""Checkpoints of the published models' shapes with random weights, for `real_sizes.py`.

Weights are bfloat16 safetensors in shards. The shapes are those of the published config.json files; the tokenizer is a
small one, its text irrelevant to times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    PreTrainedModel,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLModel,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from llave_hf import LlaveModel
from llave_hf.checkpoints.from_scratch import train_tokenizer
from llave_hf.checkpoints.llava_qwen.configuration import LlavaQwenConfig, to_llave_config
from llave_hf.checkpoints.llava_qwen.vision_towers import KNOWN_TOWERS

TOWER = "google/siglip-so400m-patch14-384"
SHARD = 1_000_000_000  # bytes
TEXTS = ("a dog in the snow", "What is in the image?", "Represent the given image.", "two cats and a tiger")
_LLAVA_QWEN = {
    "model_type": "llava_qwen",
    "architectures": ["LlavaQwenForCausalLM"],
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
    "num_key_value_heads": 2,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": [[384 * x, 384 * y] for x in (1, 2) for y in (1, 2)],
    "mm_newline_position": "one_token",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_spatial_pool_mode": "bilinear",
    "mm_vision_tower": TOWER,
    "mm_use_im_start_end": False,
    "tokenizer_model_max_length": 4096,
    "torch_dtype": "bfloat16",
}
LANGUAGE_MODELS: Mapping[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "2B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}
_PUBLISHED_NAMES = (
    (r"^backbone\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"^backbone\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^backbone\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^backbone\.language_model\.", "model."),
    (r"^backbone\.", "model."),
)
_VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SIZES = ("0.5B", "2B", "Qwen2-VL-2B")


def write_checkpoint(folder: Path, size: str) -> Path:
    """A folder as published, of one of [`SIZES`]: `llava_qwen`, or stock Qwen2-VL."""
    folder.mkdir(parents=True)
    if size == "Qwen2-VL-2B":
        return _write_qwen2_vl(folder)
    fields = {**_LLAVA_QWEN, **LANGUAGE_MODELS[size]}
    tokenizer = train_tokenizer(TEXTS, 320)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
    config = to_llave_config(LlavaQwenConfig(**fields), KNOWN_TOWERS[TOWER], 318, 319)
    with torch.device("meta"):
        model = LlaveModel(config)
    _write_weights(folder, model, _PUBLISHED_NAMES)
    return folder


def _write_qwen2_vl(folder: Path) -> Path:
    tokenizer = train_tokenizer(TEXTS, 320)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(_VISION_TOKENS)}, replace_extra_special_tokens=False
    )
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(_VISION_TOKENS))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = {**LANGUAGE_MODELS["2B"], "num_key_value_heads": 2, "vocab_size": 151936, "rope_parameters": rope}
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
    config = Qwen2VLConfig(
        text_config={**text, "bos_token_id": 0, "eos_token_id": 2, "tie_word_embeddings": True},
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = Qwen2VLModel(config)
    _write_weights(folder, model, ((r"^language_model\.", "model."),))
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    config.save_pretrained(folder)
    sizes = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **sizes),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size, **sizes),
        chat_template=QWEN2_VL_TURNS,
    ).save_pretrained(folder)
    return folder


# Qwen2-VL's own template, shortened to what it does with texts, images and videos.
QWEN2_VL_TURNS = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
)


def _write_weights(folder: Path, model: PreTrainedModel, names: tuple[tuple[str, str], ...]) -> None:
    """Shards of at most [`SHARD`] bytes and their index; one shard is in memory at a time."""
    shards: dict[str, str] = {}
    for number, shard in enumerate(_shards(model), start=1):
        file = f"model-{number:05d}.safetensors"
        tensors = {_renamed(name, names): _random(name, parameter) for name, parameter in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        shards |= dict.fromkeys(tensors, file)
    total = sum(2 * parameter.numel() for parameter in model.parameters())
    index = {"metadata": {"total_size": total}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    held = 0
    for name, parameter in model.named_parameters():
        if held + 2 * parameter.numel() > SHARD and shard:
            yield shard
            shard, held = {}, 0
        shard[name] = parameter
        held += 2 * parameter.numel()
    yield shard


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in names:
        name, changed = re.subn(pattern, replacement, name)
        if changed:
            break
    return name


def _random(name: str, parameter: torch.Tensor) -> torch.Tensor:
    if parameter.ndim == 1 and name.endswith("weight"):  # of a norm
        return torch.ones(parameter.shape, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(len(name))
    return torch.empty(parameter.shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)
