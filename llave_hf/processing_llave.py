"""From raw texts, images and videos to the inputs of [`LlaveModel`], prompt included.

Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from .geometry_llave import num_image_tokens, num_video_tokens
from .media_llave import MAX_FRAMES, load_frames, load_image, to_rgb
from .pixels_llave import TileMaker
from .prompt_llave import CHAT_TEMPLATE, PromptBuilder, sample_from_messages

logger = logging.get_logger(__name__)

IMAGE_TILINGS = ("anyres", "anyres_single", "none")
_TEXT_KWARGS = {"padding", "truncation", "max_length", "padding_side", "pad_to_multiple_of"}
_VIDEO_KWARGS = {"num_frames", "max_frames"}


class LlaveProcessor(ProcessorMixin):
    """Texts, images and videos to model inputs, with LLaVE's embedding prompt around each sample.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Knows `<|im_start|>`, `<|im_end|>`, `<image>` and `<video>` as special tokens.
        image_size (`int`, *optional*, defaults to 384): Pixels along a tile's side.
        patch_size (`int`, *optional*, defaults to 14): Pixels along the side of the vision tower's patches.
        image_grid_pinpoints (`list[list[int]]`, *optional*):
            Grids of tiles to choose from, (width, height) in pixels. Defaults to 1 x 1 to 2 x 2, as LLaVE trains.
        image_tiling (`str`, *optional*, defaults to `"anyres"`):
            `"anyres"` cuts every image into the tiles of its best grid beside the whole (the research code);
            `"anyres_single"` does so only where a sample has one image, and pads each of several to one square tile
            (transformers' LLaVA-OneVision); `"none"` pads every image to one square tile.
        image_mean, image_std (`list[float]`, *optional*): Of the normalisation; 0.5 each, as SigLIP.
        backend (`str`, *optional*, defaults to `"pil"`): See [`TileMaker`].
        max_length (`int`, *optional*, defaults to 4096):
            Longest sequence in tokens. What is longer loses the end of its user text, with a warning.
        num_frames (`int`, *optional*), max_frames (`int`, *optional*, defaults to 32): See [`load_frames`].
        video_newline, unpad_rounding (`str`, *optional*): As in [`LlaveConfig`]; must be the model's.
        chat_template (`str`, *optional*): Jinja form of the prompt, for engines that render it themselves.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 384,
        patch_size: int = 14,
        image_grid_pinpoints: Sequence[Sequence[int]] | None = None,
        image_tiling: str = "anyres",
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        backend: str = "pil",
        max_length: int = 4096,
        num_frames: int | None = None,
        max_frames: int = MAX_FRAMES,
        video_newline: str = "one_token",
        unpad_rounding: str = "truncate",
        chat_template: str | None = None,
    ) -> None:
        if image_tiling not in IMAGE_TILINGS:
            raise ValueError(f"image_tiling is {image_tiling!r}; choose one of {', '.join(map(repr, IMAGE_TILINGS))}.")
        self.image_size = image_size
        self.patch_size = patch_size
        self.image_grid_pinpoints = [list(pinpoint) for pinpoint in image_grid_pinpoints or _default_grids(image_size)]
        self.image_tiling = image_tiling
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.backend = backend
        self.max_length = max_length
        self.num_frames = num_frames
        self.max_frames = max_frames
        self.video_newline = video_newline
        self.unpad_rounding = unpad_rounding
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self._tiles = TileMaker(image_size, self.image_grid_pinpoints, self.image_mean, self.image_std, backend)
        self._prompt = PromptBuilder(tokenizer)
        self.image_token, self.video_token = "<image>", "<video>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
            [self.image_token, self.video_token]
        )

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        return_tensors: str = "pt",
        text_kwargs: dict[str, Any] | None = None,
        videos_kwargs: dict[str, Any] | None = None,
        images_kwargs: dict[str, Any] | None = None,
        audio_kwargs: dict[str, Any] | None = None,
        common_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for B samples.

        Args:
            text: B texts, or None for samples without text.
            images: B entries, each an image (PIL, path or array), a list of images, or None.
            videos: B entries, each a video (path, folder, list of frames or array), or None.
            return_tensors: `"pt"`, the only kind.
            text_kwargs, videos_kwargs: `max_length`, `padding`, `padding_side`, `pad_to_multiple_of`;
                `num_frames`, `max_frames`. They may also be given flat. `truncation` is accepted and changes nothing:
                what is too long always loses the end of its user text, never the pooled token.
            images_kwargs, audio_kwargs, common_kwargs: Accepted as sentence-transformers passes them.

        Returns:
            `input_ids` and `attention_mask` `(B, T)`; with images `pixel_values` `(tiles, 3, S, S)`, `image_sizes`
            `(images, 2)` as height and width, `image_num_tiles` `(images,)`; with videos `pixel_values_videos`
            `(frames, 3, S, S)` and `video_num_frames` `(videos,)`.

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
        texts, image_lists, clips = _aligned(text, images, videos)
        data: dict[str, Any] = {}
        marks = self._add_images(data, image_lists)
        for mark, video_mark in zip(marks, self._add_videos(data, clips, video_options), strict=True):
            mark.extend(video_mark)
        return BatchFeature({**self._tokenise(texts, marks, text_options), **data})

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
        batched = not (conversation and isinstance(conversation[0], dict))
        samples = [sample_from_messages(messages) for messages in (conversation if batched else [conversation])]
        for index, sample in enumerate(samples):
            if len(sample.videos) > 1:
                raise ValueError(f"conversation {index} has {len(sample.videos)} videos; a sample takes one.")
        return self(
            text=[sample.text for sample in samples],
            images=[sample.images for sample in samples],
            videos=[sample.videos[0] if sample.videos else None for sample in samples],
            return_tensors=return_tensors or "pt",
            **(processor_kwargs or {}),
        )

    @property
    def model_input_names(self) -> list[str]:
        names = ["input_ids", "attention_mask", "pixel_values", "image_sizes", "image_num_tiles"]
        return [*names, "pixel_values_videos", "video_num_frames"]

    @property
    def _side(self) -> int:
        return self.image_size // self.patch_size

    def _add_images(self, data: dict[str, Any], image_lists: list[list[Any]]) -> list[list[list[int]]]:
        """Fills in the images' tensors; returns each sample's placeholder ids, one list an image."""
        tiles: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        counts: list[int] = []
        marks: list[list[list[int]]] = []
        for images in image_lists:
            marks.append([])
            for source in images:
                image = to_rgb(load_image(source))
                tiled = self.image_tiling == "anyres" or (self.image_tiling == "anyres_single" and len(images) == 1)
                made = self._tiles.anyres(image) if tiled else self._tiles.padded(image)[None]
                tiles.append(made)
                sizes.append((image.height, image.width))
                counts.append(len(made))
                marks[-1].append([self.image_token_id] * self._num_image_tokens(image, len(made)))
        if tiles:
            data["pixel_values"] = self._tiles.normalise(np.concatenate(tiles))
            data["image_sizes"] = torch.tensor(sizes)
            data["image_num_tiles"] = torch.tensor(counts)
        return marks

    def _num_image_tokens(self, image: Image.Image, num_tiles: int) -> int:
        return num_image_tokens(
            image.width,
            image.height,
            num_tiles=num_tiles,
            side=self._side,
            image_size=self.image_size,
            pinpoints=self.image_grid_pinpoints,
            rounding=self.unpad_rounding,
        )

    def _add_videos(self, data: dict[str, Any], clips: list[Any], options: dict[str, Any]) -> list[list[list[int]]]:
        frames: list[np.ndarray] = []
        counts: list[int] = []
        marks: list[list[list[int]]] = []
        num_frames = options.get("num_frames", self.num_frames)
        max_frames = options.get("max_frames", self.max_frames)
        for clip in clips:
            marks.append([])
            if clip is None:
                continue
            pictures = load_frames(clip, num_frames, max_frames)
            frames.extend(self._tiles.squeezed(to_rgb(picture)) for picture in pictures)
            counts.append(len(pictures))
            count = num_video_tokens(len(pictures), side=self._side, newline=self.video_newline)
            marks[-1].append([self.video_token_id] * count)
        if counts:
            data["pixel_values_videos"] = self._tiles.normalise(np.stack(frames))
            data["video_num_frames"] = torch.tensor(counts)
        return marks

    def _tokenise(
        self, texts: list[str], marks: list[list[list[int]]], options: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        max_length = options.get("max_length") or min(self.max_length, self.tokenizer.model_max_length)
        rows, lost = self._prompt.build(texts, marks, max_length)
        for index, count in enumerate(lost):
            if count:
                logger.warning(
                    f"row {index} of the batch is longer than max_length {max_length}: the last {count} tokens of its "
                    "text were left out. Raise max_length, or shorten the text, to embed all of it."
                )
        padding = options.get("padding", True)
        padded = self.tokenizer.pad(
            {"input_ids": rows},
            padding="longest" if padding in (True, False) else padding,
            max_length=max_length,
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


def _aligned(
    text: str | Sequence[str] | None, images: Sequence[Any] | None, videos: Sequence[Any] | None
) -> tuple[list[str], list[list[Any]], list[Any]]:
    """B texts, B lists of images and B videos or None, from whatever was left out."""
    if isinstance(text, str):
        text = [text]
    for name, entries in (("text", text), ("images", images), ("videos", videos)):
        if entries is not None and not isinstance(entries, (list, tuple)):
            raise ValueError(
                f"{name} is {type(entries).__name__}; give a list with one entry a sample: {name}=[...], also for one."
            )
    counts = {
        name: len(entries)
        for name, entries in (("text", text), ("images", images), ("videos", videos))
        if entries is not None
    }
    if not counts or 0 in counts.values():
        raise ValueError("LlaveProcessor got nothing to embed; pass text=, images= or videos=, one entry a sample.")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"LlaveProcessor got {found}; give each one entry a sample, None where a sample has none.")
    size = next(iter(counts.values()))
    texts = list(text) if text is not None else [""] * size
    for index, entry in enumerate(texts):
        if not isinstance(entry, str):
            raise ValueError(f"text of row {index} is {type(entry).__name__}, not a string; pass '' for no text.")
    image_lists = [_as_list(entry) for entry in images] if images is not None else [[] for _ in range(size)]
    return texts, image_lists, list(videos) if videos is not None else [None] * size


def _as_list(entry: Any) -> list[Any]:
    if entry is None:
        return []
    return list(entry) if isinstance(entry, (list, tuple)) else [entry]


__all__ = ["LlaveProcessor"]
