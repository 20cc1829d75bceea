"""Tile and token counts: against the published code's numbers, and against transformers where it rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.modeling_llava_onevision import unpad_image

from llave_hf.model.geometry_llave import (
    fit_inside,
    num_image_tokens,
    num_video_tokens,
    reduced_size,
    select_grid,
    unpadded_size,
)

SETS = json.loads((Path(__file__).parents[1] / "fixtures" / "model" / "geometry.json").read_text())
TRAINED_GRIDS = [[384, 384], [384, 768], [768, 384], [768, 768]]
GRIDS = [[384 * columns, 384 * rows] for columns in range(1, 4) for rows in range(1, 4)]
sides = st.integers(2, 3000)


@pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry["set"])
def test_counts_equal_the_published_code(entry: dict[str, Any]) -> None:
    image_size, side = entry["image_size"], entry["image_size"] // entry["patch_size"]
    for width, height, tiles, tokens in entry["images"]:
        grid_width, grid_height = select_grid(width, height, entry["pinpoints"])
        found = 1 + grid_width * grid_height // image_size**2
        assert tiles in (None, found), (width, height)
        assert tokens == num_image_tokens(
            width,
            height,
            num_tiles=found,
            side=side,
            image_size=image_size,
            pinpoints=entry["pinpoints"],
            rounding="truncate",
        ), (width, height)
    for frames, newline, tokens in entry["videos"]:
        assert tokens == num_video_tokens(frames, side=side, newline=newline)


@pytest.mark.parametrize(("width", "height"), [(423, 188), (840, 700)])
def test_rounding_matters_for_the_sizes_where_it_is_known_to(width: int, height: int) -> None:
    counts = {
        rounding: num_image_tokens(
            width, height, num_tiles=5, side=27, image_size=384, pinpoints=TRAINED_GRIDS, rounding=rounding
        )
        for rounding in ("truncate", "round")
    }
    assert counts["truncate"] != counts["round"]


@given(sides, sides)
def test_grid_is_the_one_that_transformers_selects(width: int, height: int) -> None:
    found = select_grid(width, height, GRIDS)
    best = select_best_resolution((height, width), [[h, w] for w, h in GRIDS])
    assert found == (best[1], best[0])


def test_of_equally_good_grids_the_first_is_taken() -> None:
    for grids in ([[56, 28], [28, 56]], [[28, 56], [56, 28]]):
        assert select_grid(20, 20, grids) == tuple(grids[0])
        best = select_best_resolution((20, 20), [[h, w] for w, h in grids])
        assert select_grid(20, 20, grids) == (best[1], best[0])


@given(sides, sides, st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=50)
def test_round_unpads_as_transformers(width: int, height: int, columns: int, rows: int) -> None:
    columns, rows = 27 * columns, 27 * rows
    kept = unpad_image(torch.zeros(1, rows, columns), torch.tensor([height, width])).shape[1:]
    left, top, kept_columns, kept_rows = unpadded_size(width, height, columns, rows, "round")
    assert (kept_rows, kept_columns) == tuple(kept)
    assert left == (columns - kept_columns) // 2
    assert top == (rows - kept_rows) // 2


@given(sides, sides)
def test_the_fitted_image_lies_inside_its_grid_and_touches_two_sides(width: int, height: int) -> None:
    grid = select_grid(width, height, GRIDS)
    fitted = fit_inside(width, height, *grid)
    assert all(1 <= a <= b for a, b in zip(fitted, grid, strict=True))
    assert fitted[0] == grid[0] or fitted[1] == grid[1]


def test_reduced_size_starts_above_nine_tiles_and_a_tenth() -> None:
    assert reduced_size(3 * 27, 3 * 27, 27) is None
    assert reduced_size(81, 98, 27) is None  # the ratio 1.0999 is still small enough
    columns, rows = reduced_size(6 * 27, 6 * 27, 27) or (0, 0)
    assert (columns, rows) == (81, 81)


@pytest.mark.parametrize(("newline", "tokens"), [("one_token", 33), ("no_token", 32), ("frame", 34), ("grid", 40)])
def test_video_tokens_by_hand(newline: str, tokens: int) -> None:
    # side 7 pools to 4 x 4: two frames are 32 tokens
    assert num_video_tokens(2, side=7, newline=newline) == tokens
