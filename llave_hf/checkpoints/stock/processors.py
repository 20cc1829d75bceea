"""transformers' own processors with the same pixels, tokens and prompt as a [`LlaveProcessor`]."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from transformers import (
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
)

from llave_hf.model.geometry_llave import swapped
from llave_hf.model.processing_llave import LlaveProcessor

_QWEN_PROCESSORS: dict[str, type[ProcessorMixin]] = {
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
    "qwen3_5": Qwen3VLProcessor,
}
_TIMED = ("qwen3_vl", "qwen3_5")
# What opening a tokenizer leaves in it and saving writes: where it came from, our own class and our own settings.
_LEFTOVERS = {"auto_map", "is_local", "local_files_only", "processor_class", "name_or_path"}
_LEFTOVERS |= set(inspect.signature(LlaveProcessor.__init__).parameters)


def stock_processor(processor: LlaveProcessor) -> ProcessorMixin:
    """The processor of the backbone's publisher, with this one's settings, chat template and maximal length."""
    tokenizer = _clean_tokenizer(processor.tokenizer)
    if processor.backbone == "llava_onevision":
        return _llava_onevision(processor, tokenizer)
    visual: Any = processor._visual
    return _QWEN_PROCESSORS[processor.backbone](
        image_processor=Qwen2VLImageProcessor(**(processor.image_settings or {})),
        tokenizer=tokenizer,
        video_processor=copy.deepcopy(visual.videos),
        chat_template=_chat_template(processor),
    )


def _llava_onevision(processor: LlaveProcessor, tokenizer: PreTrainedTokenizerBase) -> LlavaOnevisionProcessor:
    size = {"height": processor.image_size, "width": processor.image_size}
    values: dict[str, Any] = {"size": size, "image_mean": processor.image_mean, "image_std": processor.image_std}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            image_grid_pinpoints=swapped(processor.image_grid_pinpoints), **values
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**values),
        num_image_tokens=(processor.image_size // processor.patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_chat_template(processor),
        image_token=processor.image_token,
        video_token=processor.video_token,
    )


def _chat_template(processor: LlaveProcessor) -> str:
    """The processor's, which also names the option by which literal marks in a text stay text.

    sentence-transformers passes it, see `layout.py`. transformers before 5.23 has no such option. It takes what a
    template does not name for an argument of the processor, in place of all others, and would leave out padding.
    """
    template = "{%- if sanitize_control_tokens is defined -%}{%- endif -%}\n" + processor.chat_template
    if processor.backbone in _TIMED:
        # The processor puts marks around each step of a video; those of the template would stand around them all.
        video = processor.video_token
        template = template.replace(f"<|vision_start|>{video}<|vision_end|>", video)
    return template


def _clean_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    clean = copy.deepcopy(tokenizer)
    for name in _LEFTOVERS:
        clean.init_kwargs.pop(name, None)
    clean._auto_map = clean._auto_class = None
    return clean
