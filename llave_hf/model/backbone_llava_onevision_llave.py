"""LLaVA-OneVision as a backbone, packed as LLaVE's research code packs it.

Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .backbone_llave import Backbone, Marks, refuse_unknown_inputs, required, text_positions
from .geometry_llave import num_image_tokens, num_video_tokens, swapped
from .media_llave import Clip, to_rgb
from .pixels_llave import TileMaker, channels_first
from .prompt_llave import PromptStyle
from .vision_llave import image_features, video_features

IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
IMAGE_TILINGS = ("anyres", "anyres_single", "none")


class TiledInputs:
    """Images as tiles of their best grid, videos as single tiles.

    Args:
        tokenizer: Knows `<image>` and `<video>`.
        settings: A [`LlaveProcessor`], for its `image_size`, `patch_size`, `image_grid_pinpoints`, `image_tiling`,
            `image_mean`, `image_std`, `backend`, `resize_order`, `video_newline` and `unpad_rounding`.
    """

    style = PromptStyle()
    input_names: tuple[str, ...] = (
        "pixel_values",
        "image_sizes",
        "image_num_tiles",
        "pixel_values_videos",
        "video_num_frames",
    )

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: Any) -> None:
        if settings.image_tiling not in IMAGE_TILINGS:
            raise ValueError(
                f"image_tiling is {settings.image_tiling!r}; choose one of {', '.join(map(repr, IMAGE_TILINGS))}."
            )
        self.settings = settings
        self.tiles = TileMaker(
            settings.image_size,
            settings.image_grid_pinpoints,
            settings.image_mean,
            settings.image_std,
            settings.backend,
            settings.resize_order,
        )
        self.side = settings.image_size // settings.patch_size
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, VIDEO_TOKEN])

    def add_images(self, data: dict[str, Any], image_lists: Sequence[Sequence[Image.Image]]) -> Marks:
        tiles: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        marks: Marks = []
        tiling = self.settings.image_tiling
        for images in image_lists:
            marks.append([])
            tiled = tiling == "anyres" or (tiling == "anyres_single" and len(images) == 1)
            for image in images:
                made = self.tiles.anyres(image) if tiled else self.tiles.padded(image)[None]
                tiles.append(made)
                sizes.append((image.height, image.width))
                marks[-1].append([self.image_token_id] * self._num_tokens(image, len(made)))
        if tiles:
            data["pixel_values"] = channels_first(np.concatenate(tiles))
            data["image_sizes"] = torch.tensor(sizes)
            data["image_num_tiles"] = torch.tensor([len(made) for made in tiles])
        return marks

    def add_videos(self, data: dict[str, Any], clips: Sequence[Clip | None]) -> Marks:
        frames: list[np.ndarray] = []
        counts: list[int] = []
        marks: Marks = []
        for clip in clips:
            marks.append([])
            if clip is None:
                continue
            frames.extend(self.tiles.squeezed(to_rgb(picture)) for picture in clip.frames)
            counts.append(len(clip.frames))
            count = num_video_tokens(counts[-1], side=self.side, newline=self.settings.video_newline)
            marks[-1].append([self.video_token_id] * count)
        if counts:
            data["pixel_values_videos"] = channels_first(np.stack(frames))
            data["video_num_frames"] = torch.tensor(counts)
        return marks

    def normalise(self, data: dict[str, Any]) -> None:
        for name in ("pixel_values", "pixel_values_videos"):
            if (pixels := data.get(name)) is not None and pixels.dtype == torch.uint8:
                data[name] = self.tiles.normalise(pixels)

    def _num_tokens(self, image: Image.Image, num_tiles: int) -> int:
        return num_image_tokens(
            image.width,
            image.height,
            num_tiles=num_tiles,
            side=self.side,
            image_size=self.settings.image_size,
            pinpoints=self.settings.image_grid_pinpoints,
            rounding=self.settings.unpad_rounding,
        )


def hidden_states(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, inputs: dict[str, Any]
) -> torch.Tensor:
    """Part by part: transformers' own forward only approximates how the research code packs visual tokens
    (unpadding, newlines of videos, several images)."""
    backbone, config = model.backbone, model.config.backbone_config
    embeds = backbone.get_input_embeddings()(input_ids)
    features = None
    if (pixels := inputs.pop("pixel_values", None)) is not None:
        sizes, counts = required(inputs, "pixel_values", "image_sizes", "image_num_tiles")
        features = image_features(backbone, pixels, sizes, counts, model.config)
    embeds = _splice(embeds, input_ids == config.image_token_id, features, "image")
    features = None
    if (frames := inputs.pop("pixel_values_videos", None)) is not None:
        (counts,) = required(inputs, "pixel_values_videos", "video_num_frames")
        features = video_features(backbone, frames, counts, model.config)
    embeds = _splice(embeds, input_ids == config.video_token_id, features, "video")
    refuse_unknown_inputs(inputs)
    return backbone.language_model(
        inputs_embeds=embeds,
        attention_mask=attention_mask,
        position_ids=text_positions(attention_mask),
        use_cache=False,
    ).last_hidden_state


def _splice(embeds: torch.Tensor, mask: torch.Tensor, features: torch.Tensor | None, kind: str) -> torch.Tensor:
    """Puts visual features `(V, D)` in the place of the placeholder tokens, in order."""
    placeholders, given = int(mask.sum()), 0 if features is None else features.shape[0]
    if placeholders != given:
        raise ValueError(
            f"input_ids hold {placeholders} {kind} tokens but the {kind}s give {given} features; model and processor "
            f"disagree on tile size, grid or newlines (load both from the same folder), or {kind}s were left out."
        )
    return embeds if features is None else embeds.masked_scatter(mask.unsqueeze(-1), features.to(embeds.dtype))


def processor_settings(
    config: PreTrainedConfig, image_fields: Mapping[str, Any], video_fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Tile size and grids are the model's; only mean and std are the image processor's."""
    vision = config.vision_config
    statistics = {key: image_fields[key] for key in ("image_mean", "image_std") if image_fields.get(key)}
    return {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "image_grid_pinpoints": swapped(config.image_grid_pinpoints),
        **statistics,
    }


LLAVA_ONEVISION = Backbone(
    hidden_states=hidden_states,
    visual_inputs=TiledInputs,
    processor_settings=processor_settings,
    parts={
        "vision_tower": ("vision_tower",),
        "projector": ("multi_modal_projector", "image_newline"),
        "language_model": ("language_model",),
    },
    # Visual features are taken before SigLIP's last layer norm.
    unused=("vision_tower.post_layernorm",),
)
