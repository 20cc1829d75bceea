"""How many tiles and tokens a picture becomes: integer arithmetic that processor and model share.

Follows the research code of LLaVE (llava/mm_utils.py and llava/model/llava_arch.py, "anyres_max_9" with
"spatial_unpad"). Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# "anyres_max_9": more than nine tiles' worth of tokens are interpolated down to nine.
MAX_TILES_IN_TOKENS = 9


def swapped(pinpoints: Sequence[Sequence[int]]) -> list[list[int]]:
    """Grids of (width, height) as (height, width), which is how transformers writes them; and back."""
    return [[second, first] for first, second in pinpoints]


def select_grid(width: int, height: int, pinpoints: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The (width, height) of `pinpoints`, in pixels, that keeps most of an image and wastes least."""
    best, best_effective, least_wasted = (0, 0), -1, math.inf
    for grid_width, grid_height in pinpoints:
        scale = min(grid_width / width, grid_height / height)
        scaled = int(width * scale) * int(height * scale)
        effective = min(scaled, width * height)
        wasted = grid_width * grid_height - effective
        if effective > best_effective or (effective == best_effective and wasted < least_wasted):
            best, best_effective, least_wasted = (grid_width, grid_height), effective, wasted
    return best


def fit_inside(width: int, height: int, grid_width: int, grid_height: int) -> tuple[int, int]:
    """The largest (width, height) with an image's aspect ratio, rounded up, that fits into a grid (all pixels)."""
    scale_width, scale_height = grid_width / width, grid_height / height
    if scale_width < scale_height:
        return grid_width, min(math.ceil(height * scale_width), grid_height)
    return min(math.ceil(width * scale_height), grid_width), grid_height


def unpadded_size(width: int, height: int, columns: int, rows: int, rounding: str) -> tuple[int, int, int, int]:
    """The part of a `columns` x `rows` token map that shows the image and not its padding.

    Args:
        width, height: The image's size in pixels.
        columns, rows: The token map's size.
        rounding: `"truncate"` (research code) or `"round"` (transformers), see [`LlaveConfig`].

    Returns:
        `(left, top, kept_columns, kept_rows)` in tokens.
    """

    def whole(value: float) -> int:
        return int(value) if rounding == "truncate" else int(round(value, 7))

    if width / height > columns / rows:
        padding = (rows - whole(height * (columns / width))) // 2
        return 0, padding, columns, rows - 2 * padding
    padding = (columns - whole(width * (rows / height))) // 2
    return padding, 0, columns - 2 * padding, rows


def reduced_size(columns: int, rows: int, side: int) -> tuple[int, int] | None:
    """The (columns, rows) that a token map is interpolated to, or None where it is small enough as it is.

    Args:
        columns, rows: The token map's size after unpadding.
        side: Tokens along one side of a tile.
    """
    ratio = math.sqrt(columns * rows / (MAX_TILES_IN_TOKENS * side**2))
    if ratio <= 1.1:
        return None
    return int(columns // ratio), int(rows // ratio)


def num_image_tokens(
    width: int,
    height: int,
    *,
    num_tiles: int,
    side: int,
    image_size: int,
    pinpoints: Sequence[Sequence[int]],
    rounding: str,
) -> int:
    """How many tokens an image takes: the whole image, its unpadded tiles, and one newline a row of tokens.

    Args:
        width, height: The image's size in pixels.
        num_tiles: 1 for an image that is one square tile; else 1 + the tiles of its grid.
        side: Tokens along one side of a tile.
        image_size: Pixels along one side of a tile.
        pinpoints: The grids to choose from, as (width, height) in pixels.
        rounding: As in [`unpadded_size`].
    """
    if num_tiles == 1:
        return side * side + 1
    grid_width, grid_height = select_grid(width, height, pinpoints)
    columns, rows = grid_width // image_size * side, grid_height // image_size * side
    _, _, columns, rows = unpadded_size(width, height, columns, rows, rounding)
    columns, rows = reduced_size(columns, rows, side) or (columns, rows)
    return side * side + rows * (columns + 1)


def num_video_tokens(num_frames: int, *, side: int, newline: str) -> int:
    """How many tokens a video takes after the 2 x 2 pooling of each frame's tokens.

    Args:
        num_frames: Frames after sampling.
        side: Tokens along one side of a tile, before pooling.
        newline: [`LlaveConfig`]'s `video_newline`.
    """
    pooled = math.ceil(side / 2)
    newlines = {"one_token": 1, "no_token": 0, "frame": num_frames, "grid": num_frames * pooled}[newline]
    return num_frames * pooled * pooled + newlines
