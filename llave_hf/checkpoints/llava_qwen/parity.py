"""Compares our values with the research code's, stage by stage, through the public interface."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.model.vision_llave import image_features, video_features

from .reference import PLACEHOLDER_ID, ReferenceRow, tiles_sha256

TOLERANCE = 1e-5  # of embeddings; a correct float32 implementation is around 1e-6, a wrong GELU at 1.6e-5
VISUAL_TOLERANCE = 1e-4  # of visual features before they are normalised


@dataclass(frozen=True)
class RowParity:
    """How one row compares.

    Args:
        tokens: Whether token ids and sequence length are equal.
        pixels: Whether the tiles are equal to the bit; None where none are recorded.
        visual: Largest difference of visual features; None where none are recorded.
        vector: Largest difference of the embedding.
    """

    name: str
    kind: str
    tokens: bool
    pixels: bool | None
    visual: float | None
    vector: float

    def passes(self, tolerance: float, *, exact_pixels: bool = True) -> bool:
        pixels = self.pixels is not False or not exact_pixels
        visual = self.visual is None or not exact_pixels or self.visual <= VISUAL_TOLERANCE
        return self.tokens and pixels and visual and self.vector <= tolerance


def compare(model: LlaveModel, processor: LlaveProcessor, rows: Iterable[ReferenceRow]) -> list[RowParity]:
    """Embeds each row alone, from its text and files, and compares."""
    return [_compare_row(model, processor, row) for row in rows]


@torch.inference_mode()
def _compare_row(model: LlaveModel, processor: LlaveProcessor, row: ReferenceRow) -> RowParity:
    with _video_newline(model, processor, row.video_newline):
        made = processor(**_arguments(row))
        vector = model(**made.to(model.device)).embeddings[0].float().cpu()
        visual = _visual_difference(model, made, row)
    ids = made["input_ids"][0].tolist()
    tokens = _collapsed(ids, processor) == row.input_ids and len(ids) == row.length
    return RowParity(
        name=row.name,
        kind=row.kind,
        tokens=tokens,
        pixels=_equal_pixels(processor, made, row.pixels_sha256) if row.pixels_sha256 else None,
        visual=visual,
        vector=float((vector - row.embedding.float()).abs().max()),
    )


@contextmanager
def _video_newline(model: LlaveModel, processor: LlaveProcessor, newline: str | None) -> Iterator[None]:
    """One reference may hold the same video under several newline rules."""
    before = model.config.video_newline, processor.video_newline
    if newline is not None:
        model.config.video_newline = processor.video_newline = newline
    try:
        yield
    finally:
        model.config.video_newline, processor.video_newline = before


def _arguments(row: ReferenceRow) -> dict[str, Any]:
    """The processor's arguments: pictures first where the message has them so, else where its placeholders stand."""
    files: list[Any] = [str(path) for path in row.files]
    media = {("videos" if row.is_video else "images"): [files]} if files else {}
    count = 1 if row.is_video else len(files)
    first = "\n".join(["<image>"] * count)
    text = row.message.removeprefix(first)
    if not files or (row.message.startswith(first) and re.match(r"\n|$", text)):
        return {"text": [text if files else row.message], **media}
    return {"text": [row.message], "placeholder": "<image>", **media}


def _collapsed(ids: Sequence[int], processor: LlaveProcessor) -> list[int]:
    """The ids with one -200 for each picture: a picture's run of tokens is unbroken, and no two runs touch."""
    visual = {processor.image_token_id, processor.video_token_id}
    collapsed: list[int] = []
    for is_visual, run in groupby(ids, key=lambda token: token in visual):
        collapsed += [PLACEHOLDER_ID] if is_visual else list(run)
    return collapsed


def _equal_pixels(processor: LlaveProcessor, made: Any, expected: Sequence[str]) -> bool:
    """Back to bytes, which must give the very floats again, and their hashes picture by picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    found = (made["pixel_values"] if "pixel_values" in made else made["pixel_values_videos"]).cpu()
    levels = ((found * std + mean) * 255).round().to(torch.uint8)
    exact = torch.equal(((levels.double() * (1 / 255)).float() - mean) / std, found)
    counts = made["image_num_tiles"].tolist() if "pixel_values" in made else [len(found)]
    return exact and [tiles_sha256(tiles) for tiles in levels.split(counts)] == list(expected)


def _visual_difference(model: LlaveModel, made: Any, row: ReferenceRow) -> float | None:
    if not row.visual:
        return None
    config, backbone = model.config, model.backbone
    if row.is_video:
        found = video_features(backbone, made["pixel_values_videos"], made["video_num_frames"], config)
    else:
        found = image_features(backbone, made["pixel_values"], made["image_sizes"], made["image_num_tiles"], config)
    expected = torch.cat(list(row.visual))
    return float((found.cpu() - expected).abs().max()) if found.shape == expected.shape else float("inf")


def parity_table(results: Sequence[RowParity], tolerance: float = TOLERANCE, *, exact_pixels: bool = True) -> str:
    """Markdown: a line a kind, then the rows that differ by more than the tolerance."""
    lines = [
        "| kind | inputs | token ids and length | pixels | visual features | largest difference of a vector |",
        "|---|---|---|---|---|---|",
    ]
    kinds = list(dict.fromkeys(result.kind for result in results))
    groups = [(kind, [result for result in results if result.kind == kind]) for kind in kinds]
    for kind, group in [*groups, ("all", list(results))]:
        recorded = [result.pixels for result in group if result.pixels is not None]
        visual = [result.visual for result in group if result.visual is not None]
        lines.append(
            f"| {kind} | {len(group)} | {_share([result.tokens for result in group])} | {_share(recorded)} "
            f"| {f'{max(visual):.1e}' if visual else '-'} | {max(result.vector for result in group):.1e} |"
        )
    failed = [result for result in results if not result.passes(tolerance, exact_pixels=exact_pixels)]
    lines += [f"\nOver {tolerance:g}, or not exact:\n"] if failed else []
    lines += [
        f"- {result.name}: token ids {'equal' if result.tokens else 'DIFFER'}, pixels "
        f"{ {None: 'not recorded', True: 'equal', False: 'DIFFER'}[result.pixels] }, vector {result.vector:.1e}"
        for result in failed
    ]
    return "\n".join(lines)


def _share(values: Sequence[bool | None]) -> str:
    return f"{sum(map(bool, values))} of {len(values)} equal" if values else "-"
