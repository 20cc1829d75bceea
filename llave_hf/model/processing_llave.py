"""From raw texts, images and videos to the inputs of [`LlaveModel`], prompt included.

Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor

from .backbones_llave import backbone_of
from .configuration_llave import opens_as_llave, split_hub_arguments
from .length_llave import DEFAULT_MAX_LENGTH, LengthLimit, chosen_length, saved_length
from .media_llave import (
    MAX_FRAMES,
    SAMPLING_FPS,
    Clip,
    MediaError,
    load_clip,
    load_image,
    to_rgb,
)
from .prompt_llave import ChatSample, PromptBuilder, aligned_samples, sample_from_messages

logger = logging.get_logger(__name__)

_TEXT_KWARGS = {"padding", "truncation", "max_length", "padding_side", "pad_to_multiple_of"}
_VIDEO_KWARGS = {"num_frames", "max_frames", "sampling_fps"}
# Say how a template is rendered; the embedding prompt is always the same. sentence-transformers passes some of them.
_RENDER_KWARGS = {"add_generation_prompt", "continue_final_message", "load_audio_from_video", "task"}


class LlaveProcessor(LengthLimit, ProcessorMixin):
    """Texts, images and videos to model inputs, with LLaVE's embedding prompt around each sample.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Knows `<|im_start|>` and `<|im_end|>`, and the backbone's image and video tokens.
        backbone (`str`, *optional*, defaults to `"llava_onevision"`):
            The backbone's `model_type`. The settings from `image_size` to `image_std`, `resize_order`, `video_newline`
            and `unpad_rounding` are LLaVA-OneVision's; `image_settings` and `video_settings` those of Qwen-VL.
        image_size (`int`, *optional*, defaults to 384): Pixels along a tile's side.
        patch_size (`int`, *optional*, defaults to 14): Pixels along the side of the vision tower's patches.
        image_grid_pinpoints (`list[list[int]]`, *optional*):
            Grids of tiles to choose from, (width, height) in pixels. Defaults to 1 x 1 to 2 x 2, as LLaVE trains.
        image_tiling (`str`, *optional*, defaults to `"anyres"`):
            `"anyres"` cuts every image into the tiles of its best grid beside the whole (the research code);
            `"anyres_single"` does so only where a sample has one image, and pads each of several to one square tile
            (transformers' LLaVA-OneVision); `"none"` pads every image to one square tile.
        image_mean, image_std (`list[float]`, *optional*): Of the normalisation; 0.5 each, as SigLIP.
        backend (`str`, *optional*, defaults to `"pil"`): `"pil"` or `"torchvision"`, see [`TileMaker`].
        resize_order (`str`, *optional*, defaults to `"across_first"`): See [`TileMaker`].
        image_settings, video_settings (`dict`, *optional*):
            Fields of transformers' image and video processor for Qwen-VL (`size`, `patch_size`, `image_mean`, ...).
        max_length (`int`, *optional*, defaults to 4096):
            Longest sequence in tokens. What is longer loses the end of its user text, with a warning.
        num_frames (`int`, *optional*), max_frames (`int`, *optional*, defaults to 32), sampling_fps (`float`,
            *optional*, defaults to 3.0): See [`load_clip`].
        video_newline, unpad_rounding (`str`, *optional*): As in [`LlaveConfig`]; must be the model's.
        chat_template (`str`, *optional*): Jinja form of the prompt, for engines that render it themselves.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        backbone: str = "llava_onevision",
        image_size: int = 384,
        patch_size: int = 14,
        image_grid_pinpoints: Sequence[Sequence[int]] | None = None,
        image_tiling: str = "anyres",
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        backend: str = "pil",
        resize_order: str = "across_first",
        image_settings: dict[str, Any] | None = None,
        video_settings: dict[str, Any] | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        num_frames: int | None = None,
        max_frames: int = MAX_FRAMES,
        sampling_fps: float = SAMPLING_FPS,
        video_newline: str = "one_token",
        unpad_rounding: str = "truncate",
        chat_template: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.image_size = image_size
        self.patch_size = patch_size
        self.image_grid_pinpoints = [list(pinpoint) for pinpoint in image_grid_pinpoints or _default_grids(image_size)]
        self.image_tiling = image_tiling
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.backend = backend
        self.resize_order = resize_order
        self.image_settings, self.video_settings = image_settings, video_settings
        self.num_frames = num_frames
        self.max_frames = max_frames
        self.sampling_fps = sampling_fps
        self.video_newline = video_newline
        self.unpad_rounding = unpad_rounding
        self._visual = backbone_of(backbone).visual_inputs(tokenizer, self)
        self._prompt = PromptBuilder(tokenizer, self._visual.style)
        super().__init__(tokenizer, chat_template=chat_template or self._visual.style.chat_template)
        self.max_length = max_length
        self.image_token_id, self.video_token_id = self._visual.image_token_id, self._visual.video_token_id
        self.image_token, self.video_token = tokenizer.convert_ids_to_tokens(
            [self.image_token_id, self.video_token_id]
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> LlaveProcessor:
        """Opens the processor of a LLaVE model, of a published LLaVE checkpoint, or of a plain backbone.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            **kwargs: Settings to change, and `revision`, `token`, ... of the Hub.
        """
        hub, _ = split_hub_arguments(kwargs)
        saved, _ = cls.get_processor_dict(pretrained_model_name_or_path, **hub)
        if saved.get("processor_class") == "LlaveProcessor":
            length = chosen_length(kwargs) or saved_length(pretrained_model_name_or_path, saved, hub)
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs).limited_to(length)
        fields, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
        if opens_as_llave(fields.get("model_type")):
            return AutoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls.from_backbone(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_backbone(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> LlaveProcessor:
        """Makes the processor of an embedding model from a backbone's tokenizer and image processor files.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            **kwargs: Settings of [`LlaveProcessor`] to choose, and `revision`, `token`, ... of the Hub.
        """
        hub, chosen = split_hub_arguments(kwargs)
        config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        backbone = backbone_of(config.model_type, str(pretrained_model_name_or_path))
        image_fields, _ = ImageProcessingMixin.get_image_processor_dict(pretrained_model_name_or_path, **hub)
        try:
            video_fields, _ = BaseVideoProcessor.get_video_processor_dict(pretrained_model_name_or_path, **hub)
        except OSError:  # checkpoints older than video processors have one file for both
            video_fields = image_fields
        settings = backbone.processor_settings(config, image_fields, video_fields)
        kind = {"config": config, "tokenizer_type": backbone.tokenizer_type}
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kind, **hub)
        limit = chosen_length(chosen) or min(DEFAULT_MAX_LENGTH, tokenizer.model_max_length)
        return cls(tokenizer, backbone=config.model_type, **{**settings, **chosen, "max_length": limit})

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        return_tensors: str = "pt",
        placeholder: str | None = None,
        text_kwargs: dict[str, Any] | None = None,
        videos_kwargs: dict[str, Any] | None = None,
        images_kwargs: dict[str, Any] | None = None,
        audio_kwargs: dict[str, Any] | None = None,
        common_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for B samples.

        Args:
            text: B texts, or None for samples without text. Any sequence will do: a list, tuple, column, series, ...
            images: B entries, each an image in a form of [`load_image`], a sequence of images, or None.
            videos: B entries, each a video in a form of [`load_clip`], or None.
            return_tensors: `"pt"`, the only kind.
            placeholder: Where this string stands in a text (`"<image>"`, say), one of the sample's pictures stands,
                and nothing is put between them. None has all pictures before the text, joined by newlines.
            text_kwargs, videos_kwargs: `max_length`, `padding`, `padding_side`, `pad_to_multiple_of`;
                `num_frames`, `max_frames`, `sampling_fps`. They may also be given flat. `truncation` is accepted and
                changes nothing: what is too long always loses the end of its user text, never the pooled token.
            images_kwargs, audio_kwargs, common_kwargs: Accepted as sentence-transformers passes them.

        Returns:
            `input_ids` and `attention_mask` `(B, T)`, and the backbone's tensors.
            LLaVA-OneVision: with images `pixel_values` `(tiles, 3, S, S)`, `image_sizes` `(images, 2)` as height and
            width, `image_num_tiles` `(images,)`; with videos `pixel_values_videos` `(frames, 3, S, S)` and
            `video_num_frames` `(videos,)`.
            Qwen-VL: `pixel_values` and `pixel_values_videos` `(patches, values)`, `image_grid_thw` and
            `video_grid_thw` `(n, 3)`; for Qwen2.5-VL `second_per_grid_ts` `(videos,)`.

        Raises:
            ValueError: Counts differ, there is nothing to embed, or an argument is unknown.
            MediaError: A picture or video cannot be used.
        """
        return_tensors = (common_kwargs or {}).get("return_tensors", return_tensors)
        if return_tensors != "pt":
            raise ValueError(
                f"return_tensors is {return_tensors!r}; LlaveProcessor gives PyTorch tensors ('pt') only."
            )
        text_options = {**{k: v for k, v in kwargs.items() if k in _TEXT_KWARGS}, **(text_kwargs or {})}
        video_options = {**{k: v for k, v in kwargs.items() if k in _VIDEO_KWARGS}, **(videos_kwargs or {})}
        _refuse_unknown(set(kwargs) - _TEXT_KWARGS - _VIDEO_KWARGS, "LlaveProcessor")
        _refuse_unknown(set(text_options) - _TEXT_KWARGS, "text_kwargs")
        _refuse_unknown(set(video_options) - _VIDEO_KWARGS, "videos_kwargs")
        _refuse_unknown(set(images_kwargs or {}), "images_kwargs")
        texts, image_lists, clips = aligned_samples(text, images, videos)
        data: dict[str, Any] = {}
        image_marks = self._visual.add_images(data, _each(image_lists, _pictures))
        video_marks = self._visual.add_videos(data, self._clips(clips, video_options))
        self._visual.normalise(data)
        marks = [[*of_images, *of_video] for of_images, of_video in zip(image_marks, video_marks, strict=True)]
        rows = self._token_rows(texts, marks, text_options, placeholder)
        return BatchFeature({**self._padded(rows, text_options), **data})

    def unpadded(
        self,
        text: Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        as_bytes: bool = False,
    ) -> list[dict[str, Any]]:
        """Each of B samples as a call with it alone prepares it, without batch dimension and mask: `input_ids` `(T,)`.

        Faster than B calls, as the tokenizer runs once. Arguments, errors and other tensors are those of a call.

        Args:
            text, images, videos: As in a call.
            as_bytes: Leaves LLaVA-OneVision's pixels as uint8, a quarter of the memory; [`normalised`] finishes them.
        """
        texts, image_lists, clips = aligned_samples(text, images, videos)
        samples: list[dict[str, Any]] = []
        marks: list[list[list[int]]] = []
        for row, clip in zip(image_lists, self._clips(clips, {}), strict=True):
            data: dict[str, Any] = {}
            (of_images,) = self._visual.add_images(data, [_pictures(row)])
            (of_video,) = self._visual.add_videos(data, [clip])
            if not as_bytes:
                self._visual.normalise(data)
            samples.append(data)
            marks.append([*of_images, *of_video])
        rows = self._token_rows(texts, marks, {}, None)
        return [{"input_ids": torch.tensor(row), **data} for row, data in zip(rows, samples, strict=True)]

    def normalised(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Model inputs whose pixels may still be bytes, with the floats that a call gives, on the same device."""
        data = dict(inputs)
        self._visual.normalise(data)
        return data

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = True,
        return_tensors: str = "pt",
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Chat messages to model inputs (`tokenize=True`), or to the prompt as a string.

        A system message is put before the user's text, as sentence-transformers' prompts want it. Base class
        behaviour that this changes: literal special tokens in a text stay text, and pictures come first.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template, tokenize=False, **kwargs)
        if not return_dict:
            raise ValueError("apply_chat_template(tokenize=True) gives a dictionary; leave return_dict at True.")
        if chat_template is not None:
            raise ValueError("apply_chat_template(tokenize=True) has LLaVE's own prompt; leave chat_template out.")
        _refuse_unknown(set(kwargs) - _RENDER_KWARGS, "apply_chat_template(tokenize=True)")
        _refuse_default_modules(processor_kwargs or {})
        batched = not (conversation and isinstance(conversation[0], dict))
        samples = _read_conversations(conversation if batched else [conversation])
        return self(
            text=[sample.text for sample in samples],
            images=[sample.images for sample in samples],
            videos=[sample.videos[0] if sample.videos else None for sample in samples],
            return_tensors=return_tensors or "pt",
            **(processor_kwargs or {}),
        )

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self._visual.input_names]

    def _clips(self, videos: Sequence[Any], options: dict[str, Any]) -> list[Clip | None]:
        num_frames = options.get("num_frames", self.num_frames)
        max_frames = options.get("max_frames", self.max_frames)
        fps = options.get("sampling_fps", self.sampling_fps)
        return _each(videos, lambda video: None if video is None else load_clip(video, num_frames, max_frames, fps))

    def _token_rows(
        self, texts: list[str], marks: list[list[list[int]]], options: dict[str, Any], placeholder: str | None
    ) -> list[list[int]]:
        max_length = options.get("max_length") or self.max_length
        rows, lost = self._prompt.build(texts, marks, max_length, placeholder)
        for index, count in enumerate(lost):
            if count:
                logger.warning(
                    f"row {index} of the batch is longer than max_length {max_length}: the last {count} tokens of its "
                    "text were left out. Raise max_length, or shorten the text, to embed all of it."
                )
        return rows

    def _padded(self, rows: list[list[int]], options: dict[str, Any]) -> dict[str, torch.Tensor]:
        padding = options.get("padding", True)
        padded = self.tokenizer.pad(
            {"input_ids": rows},
            padding="longest" if padding in (True, False) else padding,
            max_length=options.get("max_length") or self.max_length,
            padding_side=options.get("padding_side"),
            pad_to_multiple_of=options.get("pad_to_multiple_of"),
            return_tensors="pt",
        )
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}


def _default_grids(image_size: int) -> list[list[int]]:
    return [[image_size * columns, image_size * rows] for columns in (1, 2) for rows in (1, 2)]


def _refuse_unknown(names: set[str], where: str) -> None:
    if names:
        raise TypeError(f"{where} got arguments it does not know: {', '.join(sorted(names))}; leave them out.")


def _read_conversations(conversations: Sequence[Any]) -> list[ChatSample]:
    samples = []
    for index, messages in enumerate(conversations):
        try:
            samples.append(sample_from_messages(messages))
        except ValueError as error:
            raise ValueError(f"conversation {index}: {error}") from error
        if len(samples[-1].videos) > 1:
            raise ValueError(
                f"conversation {index} has {len(samples[-1].videos)} videos; a sample takes one. The "
                "frames of one video are a list of pictures, or of paths of pictures that exist."
            )
    if names := [name for sample in samples for name in sample.file_names]:
        logger.warning(
            f"{len(names)} texts of the batch read like names of files ({names[0]!r}) and are embedded as text: no "
            "such file exists, or sentence-transformers does not know its kind. Where the file is meant, pass "
            "{'image': path} or {'video': path}."
        )
    return samples


def _refuse_default_modules(processor_kwargs: dict[str, Any]) -> None:
    """sentence-transformers' own default of `truncation` shows that it did not read the saved module files."""
    if (processor_kwargs.get("text_kwargs") or {}).get("truncation") == "longest_first":
        raise ValueError(
            "sentence-transformers opened this model without its modules.json and sentence_bert_config.json, and "
            "would pool as it guesses. Write the files with `llave convert` (a published checkpoint) or "
            "LlaveModel.from_pretrained(folder).save_pretrained(folder); modules built by hand need "
            "Transformer(folder, processing_kwargs={'text': {'truncation': False}}) and Pooling(dim, 'lasttoken')."
        )


def _pictures(row: Sequence[Any]) -> list[Any]:
    return [to_rgb(load_image(image)) for image in row]


def _each(rows: Sequence[Any], open_row: Callable[[Any], Any]) -> list[Any]:
    """Every row opened; what cannot be is named by its row, where there are several."""
    opened = []
    for index, row in enumerate(rows):
        try:
            opened.append(open_row(row))
        except MediaError as error:
            raise MediaError(f"row {index} of the batch: {error}" if len(rows) > 1 else str(error)) from error
    return opened


__all__ = ["LlaveProcessor"]
