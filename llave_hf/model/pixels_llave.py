"""Pixels of a picture: resize, pad, cut into tiles, normalise, as LLaVE's research code does.

Upstream: llava/mm_utils.py, `process_anyres_image` and `resize_and_pad_image`; llava/model/multimodal_encoder,
`SigLipImageProcessor`. Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from .geometry_llave import fit_inside, select_grid

BACKENDS = ("pil", "torchvision")
RESIZE_ORDERS = ("across_first", "installed")


class TileMaker:
    """Turns RGB pictures into square tiles of model input.

    Args:
        image_size: S, pixels along a tile's side.
        pinpoints: Grids to choose from, as (width, height) in pixels, multiples of S.
        mean, std: Of the normalisation, one a channel.
        backend: `"pil"` gives the research code's pixels to the bit, on every Pillow version; `"torchvision"`
            resizes with torchvision, whose antialiasing differs by a level here and there.
        resize_order: Of the two passes of `backend="pil"`. `"across_first"` is that of Pillow before 13, which the
            published vectors were made with; `"installed"` is that of the installed Pillow, which since 13 goes down
            first for some pictures.
    """

    def __init__(
        self,
        image_size: int,
        pinpoints: Sequence[Sequence[int]],
        mean: Sequence[float],
        std: Sequence[float],
        backend: str = "pil",
        resize_order: str = "across_first",
    ) -> None:
        if resize_order not in RESIZE_ORDERS:
            choices = ", ".join(map(repr, RESIZE_ORDERS))
            raise ValueError(f"resize_order is {resize_order!r}; choose one of {choices}.")
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; choose one of {', '.join(map(repr, BACKENDS))}.")
        self.image_size = image_size
        self.pinpoints = [tuple(pinpoint) for pinpoint in pinpoints]
        pil = _resize_pil if resize_order == "across_first" else _resize_pil_as_installed
        self._resize = pil if backend == "pil" else _resize_torchvision
        self._background = tuple(int(value * 255) for value in mean)
        # A byte has 256 values: the table is the research code's arithmetic (double, float, mean, std), done once.
        levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
        self._table = (levels[None] - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[
            :, None
        ]  # (3, 256)

    def anyres(self, image: Image.Image) -> np.ndarray:
        """The whole image squeezed into one tile, then the tiles of its best grid, padded black: `(n, S, S, 3)`."""
        size = self.image_size
        grid_width, grid_height = select_grid(*image.size, self.pinpoints)
        width, height = fit_inside(*image.size, grid_width, grid_height)
        canvas = np.zeros((grid_height, grid_width, 3), dtype=np.uint8)
        left, top = (grid_width - width) // 2, (grid_height - height) // 2
        canvas[top : top + height, left : left + width] = self._resize(image, width, height)
        rows, columns = grid_height // size, grid_width // size
        tiles = np.empty((1 + rows * columns, size, size, 3), dtype=np.uint8)
        tiles[0] = self.squeezed(image)
        grid = canvas.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
        tiles[1:].reshape(grid.shape)[:] = grid
        return tiles

    def squeezed(self, image: Image.Image) -> np.ndarray:
        """The image resized to one tile whatever its aspect ratio, `(S, S, 3)`: how frames of a video are seen."""
        return self._resize(image, self.image_size, self.image_size)

    def padded(self, image: Image.Image) -> np.ndarray:
        """The image in the middle of a square of the mean colour, resized to one tile: `(S, S, 3)`."""
        width, height = image.size
        side = max(width, height)
        if width != height:
            square = Image.new("RGB", (side, side), self._background)
            square.paste(image, ((side - width) // 2, (side - height) // 2))
            image = square
        return self._resize(image, self.image_size, self.image_size)

    def normalise(self, planes: torch.Tensor) -> torch.Tensor:
        """`(n, 3, S, S)` bytes, as [`channels_first`] gives them -> float32, on their device; the same on any."""
        if planes.device.type != "cpu":
            table = torch.from_numpy(self._table).to(planes.device)
            return torch.stack([table[channel][planes[:, channel].int()] for channel in range(3)], dim=1)
        pixels = np.empty(planes.shape, dtype=np.float32)
        for levels, out in zip(planes.numpy(), pixels, strict=True):
            for channel in range(3):
                # Unless it clips, `take` fills a buffer first; a byte is never out of bounds.
                np.take(self._table[channel], levels[channel], out=out[channel], mode="clip")
        return torch.from_numpy(pixels)


def channels_first(tiles: np.ndarray) -> torch.Tensor:
    """`(n, S, S, 3)` bytes -> `(n, 3, S, S)`."""
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))


def _resize_pil(image: Image.Image, width: int, height: int) -> np.ndarray:
    # First across, then down: the order of the two passes in Pillow < 13, which the published vectors were made with.
    # Newer versions choose the order by size, and the bytes between the passes are rounded.
    if width != image.width:
        image = image.resize((width, image.height), Image.Resampling.BICUBIC)
    if height != image.height:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _resize_pil_as_installed(image: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _resize_torchvision(image: Image.Image, width: int, height: int) -> np.ndarray:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized = tv.resize(pixels, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized.permute(1, 2, 0).numpy()
