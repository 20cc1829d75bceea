"""Visual tokens of a LLaVA-OneVision backbone, packed as LLaVE's research code packs them.

Upstream: llava/model/llava_arch.py, `prepare_inputs_labels_for_multimodal` ("spatial_unpad", "anyres_max_9") and
`get_2dPool`. Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from .configuration_llave import LlaveConfig
from .geometry_llave import reduced_size, select_grid, swapped, unpadded_size


def image_features(
    backbone: PreTrainedModel,
    pixel_values: torch.Tensor,
    image_sizes: torch.Tensor,
    image_num_tiles: torch.Tensor,
    config: LlaveConfig,
) -> torch.Tensor:
    """Features of all images of a batch, one after the other.

    Args:
        backbone: A `LlavaOnevisionModel`.
        pixel_values: `(tiles of all images, 3, S, S)`.
        image_sizes: `(images, 2)`, height and width in pixels before any resizing.
        image_num_tiles: `(images,)`; 1 says that the image is one square tile.
        config: Says how unpadding rounds.

    Returns:
        `(visual tokens of all images, D)`.
    """
    projected = _project(backbone, pixel_values)  # (tiles, P * P, D)
    packed = []
    for tiles, (height, width) in zip(projected.split(image_num_tiles.tolist()), image_sizes.tolist(), strict=True):
        packed.append(_pack_image(backbone, tiles, width, height, config.unpad_rounding))
    return torch.cat(packed)


def video_features(
    backbone: PreTrainedModel, pixel_values_videos: torch.Tensor, video_num_frames: torch.Tensor, config: LlaveConfig
) -> torch.Tensor:
    """Features of all videos of a batch: `(frames of all videos, 3, S, S)` -> `(visual tokens of all videos, D)`."""
    projected = _project(backbone, pixel_values_videos)  # (frames, P * P, D)
    side = math.isqrt(projected.shape[1])
    pooled_side = math.ceil(side / 2)
    maps = projected.transpose(1, 2).unflatten(2, (side, side))  # (frames, D, P, P)
    maps = F.interpolate(maps, size=(pooled_side, pooled_side), mode="bilinear")
    newline = backbone.image_newline.to(maps.dtype)
    return torch.cat(
        [_pack_video(frames, newline, config.video_newline) for frames in maps.split(video_num_frames.tolist())]
    )


def _project(backbone: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """Tiles `(n, 3, S, S)` through vision tower and projector: `(n, P * P, D)`."""
    if not pixels.is_floating_point():
        raise TypeError(f"pixels are {pixels.dtype}; pass LlaveProcessor.normalised(inputs) to the model.")
    config = backbone.config
    tower = backbone.vision_tower
    chosen = config.vision_feature_layer
    places = [chosen] if isinstance(chosen, int) else list(chosen)
    hidden = torch.cat(_hidden_states(tower, pixels.to(tower.dtype), places), dim=-1)
    if config.vision_feature_select_strategy == "default":
        hidden = hidden[:, 1:]  # without the class token
    return backbone.multi_modal_projector(hidden)


def _hidden_states(tower: PreTrainedModel, pixels: torch.Tensor, places: list[int]) -> list[torch.Tensor]:
    """The tower's hidden states `(n, P * P, D)` at some places: 0 goes into the first layer, -1 comes out of the last.

    Not by `output_hidden_states=True`: its hooks stay on the modules, where they cannot be pickled, and a process that
    unpickled a model records nothing; sentence-transformers' pool does both.
    """
    layers = next(
        module
        for module in tower.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == tower.config.num_hidden_layers
    )
    _observe(layers)
    wanted = [place % (len(layers) + 1) for place in places]
    states: dict[int, torch.Tensor | None] = dict.fromkeys(wanted)
    _own.states, _own.place = states, 0
    try:
        tower(pixels)
    finally:
        _own.states = None
    return [state for place in wanted if (state := states[place]) is not None]


class _Own(threading.local):
    """What the wanted layers gave in the call that runs in this thread, by place; None where none runs.

    Nothing of a call is kept on the modules, which all threads that run the model share: their hook stands always and
    writes where its own thread's call reads.
    """

    states: dict[int, torch.Tensor | None] | None = None
    place = 0  # of the hidden states that the next layer takes


_own = _Own()
_OBSERVING = threading.Lock()


def _observe(layers: torch.nn.ModuleList) -> None:
    """Puts `_keep_state` on each layer, once."""
    if _keep_state in layers[-1]._forward_hooks.values():
        return
    with _OBSERVING:
        for layer in layers:
            if _keep_state not in layer._forward_hooks.values():
                layer.register_forward_hook(_keep_state)


def _keep_state(layer: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """A function of the module, not of a call, so that a model that has run can be pickled."""
    if (states := _own.states) is None:
        return
    for place, state in ((_own.place, args[0]), (_own.place + 1, output)):
        if place in states:
            states[place] = state[0] if isinstance(state, tuple) else state
    _own.place += 1


def _pack_image(
    backbone: PreTrainedModel, tiles: torch.Tensor, width: int, height: int, rounding: str
) -> torch.Tensor:
    """One image's tiles `(n, P * P, D)` -> its tokens: the whole image first, then its rows, each with a newline."""
    newline = backbone.image_newline.to(tiles.dtype)
    whole, grid = tiles[0], tiles[1:]
    if len(grid) == 0:
        return torch.cat((whole, newline[None]))
    config = backbone.config
    side = math.isqrt(whole.shape[0])
    tile_pixels = config.vision_config.image_size
    grid_width, grid_height = select_grid(width, height, swapped(config.image_grid_pinpoints))
    columns, rows = grid_width // tile_pixels, grid_height // tile_pixels
    token_map = grid.reshape(rows, columns, side, side, -1)
    token_map = token_map.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)  # (D, rows * P, columns * P)
    left, top, kept_columns, kept_rows = unpadded_size(width, height, columns * side, rows * side, rounding)
    token_map = token_map[:, top : top + kept_rows, left : left + kept_columns]
    if (reduced := reduced_size(kept_columns, kept_rows, side)) is not None:
        token_map = F.interpolate(token_map[None], size=(reduced[1], reduced[0]), mode="bilinear")[0]
    return torch.cat((whole, _rows_with_newline(token_map, newline)))


def _pack_video(frames: torch.Tensor, newline: torch.Tensor, position: str) -> torch.Tensor:
    """One video's pooled frames `(frames, D, p, p)` -> its tokens, newlines where the configuration wants them."""
    tokens = frames.flatten(2).transpose(1, 2)  # (frames, p * p, D)
    if position == "grid":
        return _rows_with_newline(frames.transpose(0, 1).flatten(1, 2), newline)
    if position == "frame":
        return torch.cat((tokens, newline.expand(len(tokens), 1, -1)), dim=1).flatten(0, 1)
    tokens = tokens.flatten(0, 1)
    return tokens if position == "no_token" else torch.cat((tokens, newline[None]))


def _rows_with_newline(token_map: torch.Tensor, newline: torch.Tensor) -> torch.Tensor:
    """`(D, rows, columns)` -> `(rows * (columns + 1), D)`: each row of tokens ends with the newline vector."""
    ends = newline[:, None, None].expand(-1, token_map.shape[1], 1)
    return torch.cat((token_map, ends), dim=2).flatten(1).transpose(0, 1)
