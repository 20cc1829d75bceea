"""One side of a row from templates: `query: "Find …: {caption}"`, or `target: {text: …, image: …, video: …}`.

A side may depend on the suffix of a column: `{case: column, ".mp4": {video: …}, ".jpg": {image: …}, other: …}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from llave_hf.evaluation.benchmark.fields import BenchmarkError, mapping, text
from llave_hf.evaluation.benchmark.pictures import PictureError, is_picture, store_picture
from llave_hf.evaluation.benchmark.raw import RawInput

from .templates import Template, Values

PARTS = ("text", "image", "video")
SIDES = (", query", ", target")  # for messages


@dataclass(frozen=True)
class Side:
    """Templates of a text and of the path of a picture or video; a picture may be a column of bytes instead."""

    text: Template | None = None
    image: Template | None = None
    video: Template | None = None

    def fill(self, values: Values, place: str) -> RawInput:
        """The side of a row.

        Raises:
            BenchmarkError: a column is missing or cannot be used, or everything is empty; the message names it.
        """
        written = self.text.fill(values, place) if self.text else ""
        video = self.video.fill(values, place) if self.video else ""
        image, stored = self._picture(values, place) if self.image else ("", False)
        raw = RawInput(written, (image,) if image else (), video, stored)
        if raw.empty:
            raise BenchmarkError(f"{place} has no text, picture or video: remove the row or fill it.")
        return raw

    def _picture(self, values: Values, place: str) -> tuple[str, bool]:
        """A path and whether it lies in the picture store."""
        assert self.image is not None
        column = self.image.column()
        if column is None or not is_picture(values.get(column)):
            return self.image.fill(values, place), False
        try:
            return store_picture(values[column])
        except PictureError as error:
            raise BenchmarkError(f"{place}: {column}: {error}") from error


@dataclass(frozen=True)
class SideByCase:
    """Sides by the suffix of a column's value; the last resort is the suffix ""."""

    column: Template
    sides: Mapping[str, Side]

    def fill(self, values: Values, place: str) -> RawInput:
        """The side of a row; see :meth:`Side.fill`."""
        suffix = PurePosixPath(self.column.fill(values, place)).suffix
        return self.sides.get(suffix, self.sides[""]).fill(values, place)


def side_from(value: Any, where: str) -> Side | SideByCase:
    """From a field of a benchmark file.

    Raises:
        BenchmarkError: it is neither text nor a mapping of text, image and video; the message names the field.
    """
    if isinstance(value, Mapping) and "case" in value:
        fields = mapping(value, where, required=("case", "other"))
        column = Template(f"{{{text(fields.pop('case'), f'{where}: case')}}}", f"{where}: case")
        sides = {"" if name == "other" else name: _plain(side, f"{where}: {name}") for name, side in fields.items()}
        return SideByCase(column, sides)
    return _plain(value, where)


def _plain(value: Any, where: str) -> Side:
    if isinstance(value, Mapping):
        fields = mapping(value, where, PARTS)
        return Side(**{part: Template(text(entry, where) or "", f"{where}: {part}") for part, entry in fields.items()})
    return Side(Template(text(value, where) or "", where))
