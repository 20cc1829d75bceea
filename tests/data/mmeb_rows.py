"""Rows in MMEB's schema that the pictures of `conftest.root` belong to."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
COLOURS = ("red", "green", "blue", "black")


def rows(count: int = 3) -> list[Row]:
    """Captions, and the picture that each is of."""
    return [
        {
            "qry": f"Find the picture: {COLOURS[i % 4]}, number {i}\n",
            "qry_image_path": "",
            "pos_text": "<|image_1|>\nRepresent the given image.\n",
            "pos_image_path": f"images/{COLOURS[i % 4]}.png",
        }
        for i in range(count)
    ]
