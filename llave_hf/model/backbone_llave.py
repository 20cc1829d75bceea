"""What a backbone must bring to become an embedding model. Self-contained: the file travels with a model to the Hub.

To add one, write a file beside `backbone_qwen_vl_llave.py` that builds a [`Backbone`], and name it in
`backbones_llave.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .media_llave import Clip
from .prompt_llave import PromptStyle

Marks = list[list[list[int]]]  # for each sample, the token ids of each of its images or videos


class VisualInputs(Protocol):
    """The processor's side: pictures to the backbone's tensors and to the token ids that stand for them."""

    image_token_id: int
    video_token_id: int
    style: PromptStyle
    input_names: tuple[str, ...]

    def add_images(self, data: dict[str, Any], image_lists: Sequence[Sequence[Image.Image]]) -> Marks:
        """Fills the tensors of B samples' RGB images into `data`; returns their token ids."""

    def add_videos(self, data: dict[str, Any], clips: Sequence[Clip | None]) -> Marks:
        """Fills the tensors of B samples' videos (or None) into `data`; returns their token ids."""

    def normalise(self, data: dict[str, Any]) -> None:
        """Makes the model's floats of pixels in `data` that are still bytes, on their device."""


@dataclass(frozen=True)
class Backbone:
    """One family of vision-language models.

    Args:
        hidden_states: `(model, input_ids (B, T), attention_mask (B, T), tensors) -> (B, T, D)`, the language model's
            last layer; `model` is the [`LlaveModel`].
        visual_inputs: `(tokenizer, settings of the LlaveProcessor) -> VisualInputs`.
        processor_settings: `(backbone's config, fields of its image processor, of its video processor) -> settings`
            that a [`LlaveProcessor`] for it differs by from the defaults.
        parts: The attributes that are the vision tower, projector and language model, for freezing; an attribute
            may be a dotted path.
        unused: Dotted paths of modules that no embedding depends on.
        tokenizer_type: The `model_type` whose tokenizer it is, where published folders name another class.
    """

    hidden_states: Callable[[PreTrainedModel, torch.Tensor, torch.Tensor, dict[str, Any]], torch.Tensor]
    visual_inputs: Callable[[PreTrainedTokenizerBase, Any], VisualInputs]
    processor_settings: Callable[[PreTrainedConfig, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    tokenizer_type: str | None = None


def required(inputs: dict[str, Any], given: str, *names: str) -> list[torch.Tensor]:
    """Takes what must come with the input `given` out of `inputs`."""
    if missing := [name for name in names if inputs.get(name) is None]:
        raise ValueError(
            f"LlaveModel got {given} without {', '.join(missing)}; pass all that LlaveProcessor returned."
        )
    return [inputs.pop(name) for name in names]


def refuse_unknown_inputs(inputs: Mapping[str, Any]) -> None:
    if inputs:
        raise TypeError(f"LlaveModel.forward got inputs it does not know: {', '.join(sorted(inputs))}.")


def text_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """`(B, T)` positions that count attended tokens only, so that padding on the left changes nothing."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
