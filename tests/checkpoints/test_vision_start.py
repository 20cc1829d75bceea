"""Starts of a tower with random weights: what comes out of the patch embedding, and which positions are alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers import TEXTS
from PIL import Image
from torch import nn
from torch.nn import functional as F

from llave_hf.checkpoints.from_scratch import build_from_scratch
from llave_hf.checkpoints.vision_start import start_patches, start_positions

SHAPES = {
    "vision_config": {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    | {"image_size": 16, "patch_size": 4},
    "text_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"num_key_value_heads": 2},
    "processor": {"image_tiling": "none"},
}


def embedding(width: int, patch: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, patch, stride=patch))


def tiles(count: int = 200) -> torch.Tensor:
    """Smooth pictures: most of their variance is brightness, as that of photos is."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((count, 3, 4, 4), generator=generator) * 2 - 1
    return F.interpolate(coarse, size=(16, 16), mode="bilinear") + 0.05 * torch.randn(
        (count, 3, 16, 16), generator=generator
    )


def outputs(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tower(pixels).flatten(2).transpose(1, 2).flatten(0, 1)  # (patches, width)


@pytest.mark.parametrize("width", [20, 48, 60])  # fewer than, as many as, and more than the values of a patch
def test_patches_come_out_centred_and_with_about_equal_strength_in_all_directions(width: int) -> None:
    pixels, tower = tiles(), embedding(width)
    random = torch.linalg.svdvals(torch.cov(outputs(tower, pixels).T))
    start_patches(tower, [pixels[:50], pixels[50:]])
    made = outputs(tower, pixels)
    assert made.mean(0).abs().max() < 1e-4
    assert made.var(0).mean() == pytest.approx(1.0, rel=0.01)
    variances = torch.linalg.svdvals(torch.cov(made.T))
    kept = min(width, 48) - 1
    assert variances[0] / variances[kept] < 0.02 * random[0] / random[kept]
    assert (variances[kept + 1 :] < 1e-4).all()  # no more directions than a patch has values


def test_the_pieces_in_which_pictures_come_do_not_matter() -> None:
    pixels, whole, pieces = tiles(), embedding(20), embedding(20)
    start_patches(whole, [pixels], seed=3)
    start_patches(pieces, iter(pixels.split(1)), seed=3)
    assert torch.allclose(outputs(whole, pixels), outputs(pieces, pixels), atol=1e-4)
    start_patches(pieces, [pixels], seed=4)
    assert not torch.allclose(outputs(whole, pixels), outputs(pieces, pixels), atol=0.1)


def test_without_pictures_that_differ_it_says_so() -> None:
    with pytest.raises(ValueError, match="the training data holds none"):
        start_patches(embedding(8), [])
    with pytest.raises(ValueError, match="all are equal"):
        start_patches(embedding(8), [torch.zeros(2, 3, 16, 16)])


def test_near_positions_are_more_alike_than_far_ones() -> None:
    tower = nn.Sequential(nn.Embedding(64, 42))
    start_positions(tower)
    places = tower[0].weight.detach().view(8, 8, 42)
    cosines = F.cosine_similarity(places[3, 3], places, dim=-1)
    assert cosines[3, 3] == cosines.max()
    assert cosines[3, 4] == pytest.approx(cosines[4, 3].item()) == pytest.approx(cosines[3, 2].item())
    assert cosines[3, 4] > cosines[4, 4] > cosines[5, 5]
    assert cosines[3, 4] > cosines[3, 5]
    assert len(torch.unique(tower[0].weight, dim=0)) == 64
    with pytest.raises(ValueError, match="a square of patches, and the tower has 50"):
        start_positions(nn.Sequential(nn.Embedding(50, 8)))


def pictures() -> Iterator[Image.Image]:
    for pixels in tiles(60):
        yield Image.fromarray(((pixels.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy())


def test_a_model_from_scratch_starts_with_both() -> None:
    both = {"patch_start": "principal_components", "position_start": "sincos2d"}
    model, processor = build_from_scratch(TEXTS, vocab_size=300, **SHAPES, **both, pictures=pictures)
    tower = model.backbone.vision_tower
    pixels = torch.cat([processor(text=[""], images=[p])["pixel_values"] for p in pictures()])
    patches = next(module for module in tower.modules() if isinstance(module, nn.Conv2d))
    assert outputs(patches, pixels).var(0).mean() == pytest.approx(1.0, rel=0.01)
    plain, _ = build_from_scratch(TEXTS, vocab_size=300, **SHAPES)
    state, other = model.state_dict(), plain.state_dict()
    changed = {name for name in state if not torch.equal(state[name], other[name])}
    assert {name.rsplit(".", 2)[1] for name in changed} == {"patch_embedding", "position_embedding"}


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_start is 'pca'; give 'principal_components'"):
        build_from_scratch(TEXTS, vocab_size=300, **SHAPES, patch_start="pca")
    with pytest.raises(ValueError, match="the training data holds none"):
        build_from_scratch(TEXTS, vocab_size=300, **SHAPES, patch_start="principal_components")
