"""The processor of a published LLaVE checkpoint, whose folder has a tokenizer but no image-processor file."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config

from llave_hf.errors import UserError
from llave_hf.model.backbone_llava_onevision_llave import IMAGE_TOKEN, VIDEO_TOKEN
from llave_hf.model.configuration_llave import split_hub_arguments
from llave_hf.model.length_llave import chosen_length
from llave_hf.model.processing_llave import LlaveProcessor

from .configuration import LlavaQwenConfig, grids
from .vision_towers import find_vision_tower


class LlavaQwenProcessor(LlaveProcessor):
    """Opens as a [`LlaveProcessor`]; never made itself."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> LlaveProcessor:
        """The processor that gives the research code's token ids and pixels.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id in the published layout.
            **kwargs: Settings of [`LlaveProcessor`] to choose (`backend`, `image_tiling`, ...), and `revision`,
                `token`, ... of the Hub.
        """
        source = os.fspath(pretrained_model_name_or_path)
        hub, settings = split_hub_arguments(kwargs)
        config = LlavaQwenConfig.from_pretrained(source, **hub)
        tower = find_vision_tower(config.fields, source, hub)
        tokenizer = load_tokenizer(config, source, hub)
        published = {
            "image_size": tower.image_size,
            "patch_size": tower.patch_size,
            "image_grid_pinpoints": grids(config, tower.image_size),
            "max_length": chosen_length(settings) or config.value("tokenizer_model_max_length"),
            "video_newline": config.value("mm_newline_position"),
            "unpad_rounding": "truncate",
        }
        return LlaveProcessor(tokenizer, **{**published, **settings})


def load_tokenizer(config: LlavaQwenConfig, source: str, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The published tokenizer with `<image>` and `<video>` as special tokens, in the next free ids where it has none.

    Raises:
        UserError: There is no tokenizer, or the embedding matrix has no spare rows for the two.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, config=Qwen2Config(), **hub)
    except OSError as error:
        raise UserError(
            f"{source} has no tokenizer files; put those of the published model beside its config.json."
        ) from error
    # Not a tokenizer's own template: LLaVE's prompt ends with an empty answer, and the processor writes it.
    tokenizer.chat_template = None
    vocabulary = tokenizer.get_vocab()
    added = [token for token in (IMAGE_TOKEN, VIDEO_TOKEN) if token not in vocabulary]
    tokenizer.add_special_tokens({"additional_special_tokens": added}, replace_extra_special_tokens=False)
    rows = config.fields.get("vocab_size")
    highest = max(tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, VIDEO_TOKEN]))
    if rows is not None and highest >= rows:
        raise UserError(
            f"the embedding matrix of {source} has {rows} rows (vocab_size) and its tokenizer {len(vocabulary)} "
            f"tokens: no spare row for {IMAGE_TOKEN} and {VIDEO_TOKEN}. This is no published LLaVE checkpoint."
        )
    return tokenizer
