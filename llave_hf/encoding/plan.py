"""Which inputs share a forward pass: sorted and packed by tokens, padding included."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from llave_hf.model.geometry_llave import num_image_tokens, num_video_tokens, select_grid
from llave_hf.model.media_pictures_llave import as_sequence, is_data_uri, picture_size

PROMPT_TOKENS = 22  # around a sample, with a Qwen tokenizer
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28  # of Qwen-VL, which keeps a picture's own size within bounds
UNKNOWN_SIZE = (1024, 768)  # of a picture whose header cannot be read here; opening it will say why

Row = TypeVar("Row")


class TokenBudget(Generic[Row]):
    """Packs rows into batches of at most `max_tokens` tokens, padding included, and `max_rows` rows.

    A row that is longer than `max_tokens` is a batch of its own. Rows that come sorted by length are padded least.
    """

    def __init__(self, max_tokens: int, max_rows: int) -> None:
        for name, value in (("max_tokens", max_tokens), ("batch_size", max_rows)):
            if value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value}.")
        self.max_tokens = max_tokens
        self.max_rows = max_rows

    def batches(self, rows: Iterable[tuple[int, Row]]) -> Iterator[list[Row]]:
        """Batches of rows, in their order.

        Args:
            rows: Pairs of a length in tokens and the row.
        """
        batch: list[Row] = []
        longest = 0
        for length, row in rows:
            longest = max(longest, length)
            if batch and (len(batch) == self.max_rows or longest * (len(batch) + 1) > self.max_tokens):
                yield batch
                batch, longest = [], length
            batch.append(row)
        if batch:
            yield batch


def estimate_tokens(entry: Any, processor: Any) -> int:
    """About how many tokens an input takes, from headers alone; serves to sort, so it need not be exact.

    Args:
        entry: As `encode` takes it.
        processor: The model's own [`LlaveProcessor`], whose settings say what a picture takes.
    """
    return PROMPT_TOKENS + _tokens(entry, processor, "image")


def _tokens(entry: Any, processor: Any, kind: str) -> int:
    if isinstance(entry, Mapping) and not {"bytes", "path"} & set(entry):
        if "type" in entry or "content" in entry:  # of a conversation
            kinds = {name: "video" if "video" in str(entry.get("type")) else "image" for name in entry}
            return sum(_tokens(value, processor, kinds[name]) for name, value in entry.items() if name != "role")
        return sum(_tokens(value, processor, name) for name, value in entry.items())
    path = os.fsdecode(entry) if isinstance(entry, (str, os.PathLike)) else None
    if path is not None and (kind == "text" or not (is_data_uri(path) or os.path.exists(path))):
        return len(path) // CHARACTERS_PER_TOKEN
    if kind == "video" or getattr(entry, "ndim", 0) >= 4:
        return _video_tokens(entry, processor)
    if (several := as_sequence(entry)) is not None:
        return sum(_tokens(value, processor, kind) for value in several)
    return _image_tokens(picture_size(entry) or UNKNOWN_SIZE, processor)


def _image_tokens(size: tuple[int, int], processor: Any) -> int:
    size = (max(size[0], 1), max(size[1], 1))  # an empty picture is refused where it is opened
    if processor.backbone != "llava_onevision":
        return size[0] * size[1] // PIXELS_PER_TOKEN
    tile, pinpoints = processor.image_size, processor.image_grid_pinpoints
    tiles = 1
    if processor.image_tiling != "none":
        width, height = select_grid(*size, pinpoints)
        tiles += width // tile * (height // tile)
    return num_image_tokens(
        *size,
        num_tiles=tiles,
        side=tile // processor.patch_size,
        image_size=tile,
        pinpoints=pinpoints,
        rounding=processor.unpad_rounding,
    )


def _video_tokens(source: Any, processor: Any) -> int:
    """As many frames as a video may have at most, where only decoding it would tell."""
    frames = processor.num_frames or processor.max_frames
    if hasattr(source, "__len__") and not isinstance(source, str):
        frames = min(frames, len(source))
    return num_video_tokens(frames, side=processor.image_size // processor.patch_size, newline="one_token")
