"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL as backbones (LLaVE's Table 6 uses Qwen2-VL).

Pixels are those of transformers' own image and video processors, and the system and user turns those of the model's
own chat template; the empty assistant turn after them is LLaVE's, and its last token is pooled. Self-contained: the
file travels with a model to the Hub.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .backbone_llave import Backbone, Marks, refuse_unknown_inputs, required, text_positions
from .media_llave import Clip, to_rgb
from .prompt_llave import PromptStyle

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
_FIELDS = ("size", "patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std")
_DEFAULT_GAP = 0.5  # seconds between frames that come without times: Qwen samples two a second

logger = logging.getLogger(__name__)


class PatchInputs:
    """Images and videos as patches at their own aspect ratio, wrapping transformers' processors. A video is one run of
    tokens.

    Args:
        tokenizer: Knows Qwen's vision tokens.
        settings: A [`LlaveProcessor`], for its `backbone`, `backend`, `image_settings` and `video_settings`.
    """

    input_names: tuple[str, ...] = (
        "pixel_values",
        "image_grid_thw",
        "pixel_values_videos",
        "video_grid_thw",
        "second_per_grid_ts",
    )
    prompt: Mapping[str, Any] = {}  # what of the prompt differs from `PromptStyle`

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: Any) -> None:
        self.kind = settings.backbone
        self.tokenizer = tokenizer
        self.images = _image_processor_class(settings.backend)(**(settings.image_settings or {}))
        self.videos = _video_processor(self.video_processor_class(), settings.video_settings or {})
        tokens = ["<|vision_start|>", "<|vision_end|>", IMAGE_TOKEN, VIDEO_TOKEN]
        self.start, self.end, self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(tokens)
        self.style = PromptStyle(
            image_mark=f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>",
            video_mark=f"<|vision_start|>{VIDEO_TOKEN}<|vision_end|>",
            joint="",
            **self.prompt,
        )

    def video_processor_class(self) -> type:
        from transformers import Qwen2VLVideoProcessor

        return Qwen2VLVideoProcessor

    def add_images(self, data: dict[str, Any], image_lists: Sequence[Sequence[Image.Image]]) -> Marks:
        pictures = [image for images in image_lists for image in images]
        if not pictures:
            return [[] for _ in image_lists]
        made = self.images(images=pictures, return_tensors="pt")
        data["pixel_values"], data["image_grid_thw"] = made["pixel_values"], made["image_grid_thw"]
        counts = iter((made["image_grid_thw"].prod(-1) // self.images.merge_size**2).tolist())
        return [
            [[self.start, *[self.image_token_id] * next(counts), self.end] for _ in images] for images in image_lists
        ]

    def normalise(self, data: dict[str, Any]) -> None:
        """transformers' processors have done it."""

    def add_videos(self, data: dict[str, Any], clips: Sequence[Clip | None]) -> Marks:
        step = self.videos.temporal_patch_size
        timed = [None if clip is None else _timed(clip, step) for clip in clips]
        given = [entry for entry in timed if entry is not None]
        if not given:
            return [[] for _ in clips]
        videos = [torch.from_numpy(pixels) for pixels, _ in given]
        made = self.videos(videos=videos, do_sample_frames=False, return_tensors="pt")
        data["pixel_values_videos"], data["video_grid_thw"] = made["pixel_values_videos"], made["video_grid_thw"]
        if self.kind == "qwen2_5_vl":
            data["second_per_grid_ts"] = torch.tensor([_gap(seconds) * step for _, seconds in given])
        grids = iter(made["video_grid_thw"].tolist())
        return [[] if entry is None else [self.video_mark(next(grids), entry[1], step)] for entry in timed]

    def video_mark(self, grid: list[int], seconds: list[float], step: int) -> list[int]:
        """Token ids of a video.

        Args:
            grid: How often `step` frames, and patches down and across.
            seconds: Of each frame.
            step: Frames that a patch spans.
        """
        return [self.start, *[self.video_token_id] * (grid[0] * self._tokens_of_step(grid)), self.end]

    def _tokens_of_step(self, grid: list[int]) -> int:
        return int(grid[1] * grid[2] // self.videos.merge_size**2)


class TimedPatchInputs(PatchInputs):
    """Likewise, as Qwen3-VL has it: no system turn, and a video is a run of tokens for each `step` frames with their
    time before it, as in Qwen's own code (transformers 5.23 puts one more `<|vision_start|>` and `<|vision_end|>`
    around them all)."""

    input_names = PatchInputs.input_names[:-1]
    prompt = {"system": None}

    def video_processor_class(self) -> type:
        from transformers import Qwen3VLVideoProcessor

        return Qwen3VLVideoProcessor

    def video_mark(self, grid: list[int], seconds: list[float], step: int) -> list[int]:
        ids: list[int] = []
        for frame in range(grid[0]):
            first, last = seconds[frame * step], seconds[frame * step + step - 1]
            time = self.tokenizer(f"<{(first + last) / 2:.1f} seconds>", add_special_tokens=False)["input_ids"]
            ids += [*time, self.start, *[self.video_token_id] * self._tokens_of_step(grid), self.end]
        return ids


def _image_processor_class(backend: str) -> type:
    if backend == "pil":
        return Qwen2VLImageProcessorPil
    if backend == "torchvision":
        from transformers import Qwen2VLImageProcessor

        return Qwen2VLImageProcessor
    raise ValueError(f"backend is {backend!r}; choose 'pil' or 'torchvision'.")


def _video_processor(processor_class: Any, settings: Mapping[str, Any]) -> Any:
    if getattr(processor_class, "cap_pixels_per_frame", False) is None:
        # As Qwen's own code does; transformers asks for a choice until it becomes the default.
        settings = {"cap_pixels_per_frame": True, **settings}
    return processor_class(**settings)


def _timed(clip: Clip, step: int) -> tuple[np.ndarray, list[float]]:
    """Frames `(n, 3, H, W)`, at least `step`, and times in seconds, the last repeated up to a multiple of `step`.

    The video processor repeats the last frame likewise, but Qwen3-VL's refuses fewer than `step`.
    """
    frames = [np.asarray(to_rgb(frame)).transpose(2, 0, 1) for frame in clip.frames]
    seconds = list(clip.seconds or [index * _DEFAULT_GAP for index in range(len(frames))])
    seconds += [seconds[-1]] * (-len(seconds) % step)
    frames += [frames[-1]] * (step - len(frames))
    return np.stack(frames), seconds


def _gap(seconds: Sequence[float]) -> float:
    distinct = sorted(set(seconds))
    return (distinct[-1] - distinct[0]) / (len(distinct) - 1) if len(distinct) > 1 else _DEFAULT_GAP


def hidden_states(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, inputs: dict[str, Any]
) -> torch.Tensor:
    """Through the backbone's own forward, which finds the three-dimensional positions from the token types."""
    backbone, config = model.backbone, model.config.backbone_config
    tensors: dict[str, Any] = {}
    for pixels, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if (given := inputs.pop(pixels, None)) is not None:
            tensors[pixels], (tensors[grid],) = given, required(inputs, pixels, grid)
    if (gaps := inputs.pop("second_per_grid_ts", None)) is not None:
        tensors["second_per_grid_ts"] = gaps
    refuse_unknown_inputs(inputs)
    types = (input_ids == config.image_token_id).int() + 2 * (input_ids == config.video_token_id).int()
    if tensors:
        tensors["mm_token_type_ids"] = types
    elif bool(types.any()):
        raise ValueError(
            "input_ids hold image or video tokens but no pixels were given; pass all that LlaveProcessor returned."
        )
    else:
        tensors["position_ids"] = text_positions(attention_mask)
    return backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **tensors).last_hidden_state


def processor_settings(
    config: PreTrainedConfig, image_fields: Mapping[str, Any], video_fields: Mapping[str, Any]
) -> dict[str, Any]:
    """What the backbone's own processors say; the patch sizes must be the vision tower's."""
    vision = config.vision_config
    sizes = {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    return {
        "backend": "torchvision",
        "image_settings": _settings(image_fields, sizes, "image"),
        "video_settings": _settings(video_fields, sizes, "video"),
    }


def _settings(fields: Mapping[str, Any], sizes: Mapping[str, int], kind: str) -> dict[str, Any]:
    found = {key: fields[key] for key in _FIELDS if fields.get(key) is not None}
    if "min_pixels" in fields and "max_pixels" in fields and not _is_size(found.get("size")):
        found["size"] = {"shortest_edge": fields["min_pixels"], "longest_edge": fields["max_pixels"]}
    for key, value in sizes.items():
        if found.setdefault(key, value) != value:
            raise ValueError(
                f"the backbone's {kind} processor has {key} {found[key]} but its vision tower has {value}; mend its "
                "preprocessor_config.json."
            )
    return found


def _is_size(size: Any) -> bool:
    return isinstance(size, Mapping) and {"shortest_edge", "longest_edge"} <= set(size)


QWEN_VL = Backbone(
    hidden_states=hidden_states,
    visual_inputs=PatchInputs,
    processor_settings=processor_settings,
    # The merger inside the vision tower is its projector.
    parts={"vision_tower": ("visual",), "projector": ("visual.merger",), "language_model": ("language_model",)},
)
QWEN3_VL = replace(
    QWEN_VL,
    visual_inputs=TimedPatchInputs,
    parts={**QWEN_VL.parts, "projector": ("visual.merger", "visual.deepstack_merger_list")},  # for deeper layers
)
