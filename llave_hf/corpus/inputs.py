"""What of a row is embedded: columns by name or by description, as what `encode` takes, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from llave_hf.data.described.sides import PARTS, SideTemplates, side_templates
from llave_hf.data.media import locate, locate_video
from llave_hf.data.rows.columns import ColumnError, SideColumns
from llave_hf.data.rows.described import described_side
from llave_hf.data.samples import Sample
from llave_hf.data.sources.archives import KEY
from llave_hf.data.sources.specs import suggest
from llave_hf.data.stored.pictures import StoredPicture
from llave_hf.errors import UserError

from .reading import Chunk

KNOWN = {"text": ("text", "txt"), "image": ("image",), "video": ("video",)}  # columns that need no description


def parse_description(text: str | None) -> Any:
    """What a command line says of columns: a template, or a mapping of text, image and video in YAML or JSON.

    `{caption}` is a template, `{text: caption}` a mapping.
    """
    if text is None:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    is_mapping = isinstance(value, dict) and all(entry is not None for entry in value.values())
    return value if is_mapping else text


def side_of(description: Any, columns: Collection[str], where: str) -> SideTemplates:
    """The templates of a row.

    Args:
        description: A text or a mapping, as a side in a recipe; None: columns with known names.
        columns: Those that there are.
        where: The source, for messages.

    Raises:
        UserError: A column that is named is not there; or none is named, and none has a known name.
    """
    if description is None:
        found = {part: next((name for name in names if name in columns), None) for part, names in KNOWN.items()}
        description = {part: f"{{{name}}}" for part, name in found.items() if name is not None}
        if not description:
            raise UserError(
                f"{where} has no column text, image or video; it has {', '.join(columns)}. Say what to embed: --input "
                "'{text: \"{COLUMN}\", image: COLUMN}', with what there is of them."
            )
    side = side_templates(description, "input")
    names = [name for template in side.templates() for name in template.columns()]
    for name in names:
        if name not in columns:
            raise UserError(
                f"input: there is no column {name!r} in {where}{suggest(name, list(columns))}; there are "
                f"{', '.join(columns)}."
            )
    if not names:
        raise UserError(f"input: {description!r} names no column, so that all rows would be equal: put one in braces.")
    return side


def columns_of(side: SideTemplates) -> list[str]:
    """The columns that a side names, each once."""
    return list(dict.fromkeys(name for template in side.templates() for name in template.columns()))


def inputs_of(
    chunk: Chunk, side: SideTemplates, media_root: str | None, prompts: Mapping[str, str] | None = None
) -> Iterator[tuple[int, Any, str | None, int]]:
    """Each row of a chunk: its place, and what `encode` takes or what is wrong with it, and the bytes it holds.

    Args:
        chunk: The rows.
        side: What of them is embedded.
        media_root: What paths of media are relative to, and may not leave; None: the caller vouches for them.
        prompts: Texts that stand beside pictures and videos without one, by `image` and `video`.

    Raises:
        ValueError: A column cannot be used in any row.
    """
    errors = dict(chunk.errors)
    for name in columns_of(side):
        if name not in chunk.table.column_names:  # lines of JSON have no columns that all of them lack
            chunk = replace(chunk, table=chunk.table.append_column(name, pa.nulls(len(chunk), pa.string())))
    sides = _sides(chunk, side, errors)
    by_place = {first + own: (columns, own) for first, columns in sides for own in range(len(columns))}
    faults = {first + own: fault for first, columns in sides for own, fault in _faults(columns).items()}
    for place in range(len(chunk)):
        error = errors.get(place) or faults.get(place)
        entry, size = None, 0
        if error is None:
            columns, own = by_place[place]
            try:
                entry, size = _entry(columns.sample(own, media_root), chunk, prompts or {})
            except (ValueError, OSError) as fault:  # MediaError among them
                error = " ".join(str(fault).split())
        yield place, entry, error, size


def _sides(chunk: Chunk, side: SideTemplates, errors: dict[int, str]) -> list[tuple[int, SideColumns]]:
    """The side of all rows but those that cannot be shown, in pieces with their first row's place."""
    made: list[tuple[int, SideColumns]] = []
    _note_missing_members(chunk, side, errors)
    ranges = [(0, len(chunk))]
    for bad in sorted(errors):
        first, behind = ranges.pop()
        ranges += [(first, bad), (bad + 1, behind)]
    while ranges:
        first, behind = ranges.pop()
        if first == behind:
            continue
        try:
            made.append((first, described_side(chunk.table.slice(first, behind - first), side, "input")))
        except ColumnError as error:
            if error.row is None:
                raise
            bad = first + error.row
            errors[bad] = str(error)
            ranges += [(first, bad), (bad + 1, behind)]
    return made


def _note_missing_members(chunk: Chunk, side: SideTemplates, errors: dict[int, str]) -> None:
    """In an archive, a member that is missing is a fault of the archive."""
    if KEY not in chunk.table.column_names:
        return
    for name in columns_of(side):
        values = chunk.table.column(name)
        missing = pc.is_null(values)
        if pa.types.is_large_binary(values.type):
            missing = pc.or_(missing, pc.equal(pc.binary_length(values), 0))
        for place in np.flatnonzero(missing.to_numpy()).tolist():
            errors.setdefault(place, f"the sample has no {name!r}; complete the archive, or take it out.")


def _faults(columns: SideColumns) -> dict[int, str]:
    faults = dict.fromkeys(np.flatnonzero(columns.empty()).tolist(), "there is neither text nor medium.")
    for place in np.flatnonzero(columns.wrongly_marked()).tolist():
        faults.setdefault(place, f"there are {columns.describe_marks(place)}.")
    return faults


def _entry(sample: Sample, chunk: Chunk, prompts: Mapping[str, str]) -> tuple[dict[str, Any], int]:
    pictures: list[Any] = []
    size = 0
    for image in sample.images:
        found = chunk.picture(image) if isinstance(image, StoredPicture) else locate(image, sample.media_root)
        size += len(found) if isinstance(found, bytes) else 0
        pictures.append(found)
    entry: dict[str, Any] = {}
    if pictures:
        entry["image"] = pictures[0] if len(pictures) == 1 else pictures
    if sample.video is not None:
        entry["video"] = locate_video(sample.video, sample.media_root)
    text = sample.text or next((prompts[part] for part in PARTS if part in entry and prompts.get(part)), "")
    if text:
        entry["text"] = text
    return {name: str(value) if hasattr(value, "__fspath__") else value for name, value in entry.items()}, size
