"""Exports a model in transformers' own classes, for whoever has no llave_hf: serving engines, other languages."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoProcessor,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from llave_hf.errors import UserError
from llave_hf.model.geometry_llave import swapped
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.model.sentence_transformer_layout_llave import write_sentence_transformer_layout
from llave_hf.runtime.places import check_model
from llave_hf.runtime.progress import writing_bar

from .initialisation import refuse_used_folder


def export(model: str | os.PathLike[str], folder: str | os.PathLike[str], format: str = "llava_onevision") -> str:
    """Writes stock weights, processor, chat template and modules.json.

    `AutoModel`, `AutoProcessor`, `SentenceTransformer` and serving engines with a pooling runner open the folder
    without llave_hf and without a trust flag.

    Args:
        model: A LLaVE folder or Hub id with a LLaVA-OneVision backbone.
        folder: Must not exist or be empty.
        format: `"llava_onevision"`.

    Returns:
        What was written, and for which inputs transformers' own code gives other vectors.

    Raises:
        UserError: The format or the backbone is another one, or `folder` is in use.
    """
    target = Path(folder)
    refuse_used_folder(target)
    if format != "llava_onevision":
        raise UserError(f"format is {format!r}; 'llava_onevision' is the only one.")
    check_model(model)
    source, processor = AutoModel.from_pretrained(model), AutoProcessor.from_pretrained(model)
    if not isinstance(source, LlaveModel) or source.config.backbone_config.model_type != "llava_onevision":
        raise UserError(
            f"{model} is no LLaVE model with a LLaVA-OneVision backbone; a Qwen-VL backbone needs no export, its own "
            "class is transformers' already: save `model.backbone`."
        )
    with writing_bar(target, sum(parameter.nbytes for parameter in source.parameters()), "Writing"):
        _save_weights(source, target)
    stock_processor(processor).save_pretrained(target)
    # Texts go through the chat template as a whole, so that a literal special token must be made harmless first.
    write_sentence_transformer_layout(
        target,
        source.config.hidden_size,
        source.config.normalize,
        processing_kwargs={"text": {"truncation": False}, "chat_template": {"sanitize_control_tokens": True}},
    )
    return "\n".join([f"Written: {target}", *(f"- {line}" for line in differences(source, processor))])


def _save_weights(model: LlaveModel, folder: Path) -> None:
    config = copy.deepcopy(model.config.backbone_config)
    # An embedding model has no head; tied to the token embeddings it needs no weights of its own.
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    config.dtype = model.dtype
    with torch.device("meta"):
        whole = LlavaOnevisionForConditionalGeneration(config)
    whole.model = model.backbone
    whole.tie_weights()
    whole.save_pretrained(folder)


def stock_processor(processor: LlaveProcessor) -> LlavaOnevisionProcessor:
    """transformers' own processor with the same tiles, mean, std, tokens and prompt."""
    size = {"height": processor.image_size, "width": processor.image_size}
    values = {"size": size, "image_mean": processor.image_mean, "image_std": processor.image_std}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            image_grid_pinpoints=swapped(processor.image_grid_pinpoints), **values
        ),
        tokenizer=processor.tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**values),
        num_image_tokens=(processor.image_size // processor.patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=processor.chat_template,
        image_token=processor.image_token,
        video_token=processor.video_token,
    )


def differences(model: LlaveModel, processor: LlaveProcessor) -> list[str]:
    """For which inputs transformers' own LLaVA-OneVision gives other vectors than this model."""
    found = ["An input that is too long is not cut: give the engine a maximal length of its own."]
    if processor.image_tiling == "anyres":
        found.append("Several images in one input: transformers pads each to one square tile, this model tiles each.")
    if processor.image_tiling == "none":
        found.append("Images: transformers tiles a single image, this model pads it to one square tile.")
    if model.config.unpad_rounding == "truncate":
        found.append("A few image sizes (64 of 4 million): transformers rounds the unpadded size otherwise.")
    if model.config.video_newline != "one_token":
        found.append(
            f"Videos: transformers puts one newline after the last frame, this model `{model.config.video_newline}`."
        )
    found.append("Transparent pictures: transformers lays them on white, this model drops the transparency.")
    return found
