"""Reads reference values: files of what the research code computed for some inputs.

A reference folder holds `cases.json`, the tensors (`reference.safetensors` or `expected.safetensors`) and the
pictures. `cases.json` is a list of cases, or `{"cases": [...]}`. A case has an `id` (or `name`), a `kind` (`text`,
`image`, `multi_image`, `video`, `batch`, ...) and either `rows` or the fields of its one row:

- the user turn `message` (or `text`) with `<image>` where a picture or the video stands,
- `files`: pictures, or a video's frames in order, in the folder or its `inputs/`,
- `input_ids` before visual tokens are inserted, -200 for each picture or video,
- the final length `seq_len` (or `sequence_length`),
- optionally `pixels_sha256`, one for each picture: the hash of its tiles, uint8 `(tiles, 3, S, S)`.

Tensors: the L2-normalised embedding `{id}/row{i}/embedding` (or `{id}.embedding`), and optionally
`{id}/row{i}/pixel_u8/{k}`, the tiles themselves, and `{id}/row{i}/visual_embeds/{k}` `(tokens, D)` of picture k.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from llave_hf.errors import UserError

PLACEHOLDER_ID = -200
_TENSOR_FILES = ("reference.safetensors", "expected.safetensors")
# What is recorded for information or is tested elsewhere, and why no vector is compared.
NOT_COMPARED: Mapping[str, str] = {
    "image_not_converted_to_rgb": "a picture that the published code's callers convert first",
    "train_step": "a training step, no single input",
    "truncated": "the published code cuts the pooled token off; here the prompt's end stays",
}


@dataclass(frozen=True)
class ReferenceRow:
    """One input and what the research code made of it."""

    name: str
    kind: str
    message: str
    files: list[Path]
    input_ids: list[int]
    length: int
    embedding: torch.Tensor
    video_newline: str | None = None
    pixels_sha256: list[str] = field(default_factory=list)
    visual: list[torch.Tensor] = field(default_factory=list)

    @property
    def is_video(self) -> bool:
        return self.kind == "video"


def read_reference(folder: str | os.PathLike[str]) -> tuple[list[ReferenceRow], dict[str, str]]:
    """The rows of a reference folder, and the cases that are not compared, each with the reason.

    Raises:
        UserError: A file or a tensor is missing.
    """
    root = Path(folder)
    tensor_file = next((root / name for name in _TENSOR_FILES if (root / name).exists()), None)
    if tensor_file is None or not (root / "cases.json").exists():
        raise UserError(f"{root} is no reference folder; it needs cases.json and one of {', '.join(_TENSOR_FILES)}.")
    tensors = load_file(tensor_file)
    content = json.loads((root / "cases.json").read_text(encoding="utf-8"))
    rows: list[ReferenceRow] = []
    skipped: dict[str, str] = {}
    for case in content["cases"] if isinstance(content, dict) else content:
        name = case.get("id") or case["name"]
        if case["kind"] in NOT_COMPARED:
            skipped[name] = NOT_COMPARED[case["kind"]]
        else:
            rows += _rows(root, name, case, tensors)
    return rows, skipped


def _rows(
    root: Path, name: str, case: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> Iterator[ReferenceRow]:
    inputs = root / "inputs" if (root / "inputs").is_dir() else root
    single = "rows" not in case
    for index, row in enumerate([case] if single else case["rows"]):
        prefix = f"{name}/row{index}"
        key = f"{name}.embedding" if single else f"{prefix}/embedding"
        if key not in tensors:
            raise UserError(f"{root} has no tensor {key}, which cases.json announces.")
        yield ReferenceRow(
            name=name if single or len(case["rows"]) == 1 else prefix,
            kind=case["kind"],
            message=row["text"] if single else row["message"],
            files=[inputs / file for file in row["files"]],
            input_ids=list(row["input_ids"]),
            length=row.get("seq_len") or row["sequence_length"],
            embedding=tensors[key],
            video_newline=case.get("mm_newline_position"),
            pixels_sha256=row.get("pixels_sha256")
            or [tiles_sha256(tiles) for tiles in _numbered(tensors, f"{prefix}/pixel_u8")],
            visual=_numbered(tensors, f"{prefix}/visual_embeds"),
        )


def tiles_sha256(tiles: torch.Tensor) -> str:
    """The hash of uint8 tiles `(n, 3, S, S)`."""
    return hashlib.sha256(tiles.contiguous().numpy().tobytes()).hexdigest()


def _numbered(tensors: Mapping[str, torch.Tensor], prefix: str) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    while (key := f"{prefix}/{len(found)}") in tensors:
        found.append(tensors[key])
    return found
