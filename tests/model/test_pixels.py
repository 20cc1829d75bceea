from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import picture
from PIL import Image

from llave_hf.model.pixels_llave import TileMaker, channels_first

GRIDS = [[28, 28], [28, 56], [56, 28], [56, 56]]


def maker(backend: str = "pil") -> TileMaker:
    return TileMaker(28, GRIDS, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), backend)


def test_tiles_lie_in_reading_order_behind_the_whole_image() -> None:
    # Four flat quarters that fill the 2 x 2 grid exactly.
    pixels = np.zeros((56, 56, 3), dtype=np.uint8)
    for index, (top, left) in enumerate([(0, 0), (0, 28), (28, 0), (28, 28)]):
        pixels[top : top + 28, left : left + 28] = 50 * (index + 1)
    tiles = maker().anyres(Image.fromarray(pixels))
    assert tiles.shape == (5, 28, 28, 3)
    assert [int(tile.min()) for tile in tiles[1:]] == [int(tile.max()) for tile in tiles[1:]] == [50, 100, 150, 200]


def test_padding_is_black_and_centred() -> None:
    tiles = maker().anyres(Image.new("RGB", (56, 14), (255, 255, 255)))  # 2 x 1 grid: 28 rows, 14 of them image
    assert tiles.shape == (3, 28, 28, 3)
    assert (tiles[0] == 255).all()
    for tile in tiles[1:]:
        assert (tile[7:21] == 255).all()
        assert not tile[:7].any()
        assert not tile[21:].any()


def test_padded_uses_the_mean_colour() -> None:
    tile = maker().padded(Image.new("RGB", (28, 14), (255, 0, 0)))
    assert tile[0, 0].tolist() == [127, 127, 127]
    assert tile[14, 14].tolist() == [255, 0, 0]


def test_resize_goes_across_before_down() -> None:
    # Pillow 13 would go down first here, and rounds the bytes between the passes.
    image = picture(100, 300)
    by_hand = image.resize((28, 300), Image.Resampling.BICUBIC).resize((28, 28), Image.Resampling.BICUBIC)
    assert np.array_equal(maker().squeezed(image), np.asarray(by_hand))


def test_normalise_is_the_published_arithmetic_for_every_byte() -> None:
    tiles = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    expected = ((torch.arange(256).double() * (1 / 255)).float() - 0.5) / 0.5
    for channel in maker().normalise(channels_first(tiles))[0]:
        assert torch.equal(channel.flatten(), expected)


def test_normalise_uses_each_channels_mean_and_std() -> None:
    tiles = TileMaker(28, GRIDS, (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    made = tiles.normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    assert made[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_normalise_gives_the_same_bits_on_a_gpu() -> None:
    planes = torch.randint(0, 256, (5, 3, 28, 28), dtype=torch.uint8)
    tiles = TileMaker(28, GRIDS, (0.1, 0.5, 0.9), (1.0, 0.5, 0.25))
    assert torch.equal(tiles.normalise(planes.cuda()).cpu(), tiles.normalise(planes))


@pytest.mark.parametrize("size", [(100, 60), (20, 20), (300, 90), (31, 200)])
def test_torchvision_is_close_to_pil(size: tuple[int, int]) -> None:
    image = picture(*size).resize(size)  # noise is the hardest picture to resize alike
    for method in ("anyres", "padded", "squeezed"):
        ours = getattr(maker(), method)(image).astype(int)
        other = getattr(maker("torchvision"), method)(image).astype(int)
        assert np.abs(ours - other).max() <= 3


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend is 'opencv'; choose one of 'pil', 'torchvision'"):
        maker("opencv")
