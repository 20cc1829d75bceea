"""One side of a row from templates: `query: "Find …: {caption}"`, or `target: {text: …, image: …, video: …}`.

A side may depend on the suffix of a column: `{case: column, ".mp4": {video: …}, ".jpg": {image: …}, other: …}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from llave_hf.data.described.fields import FieldError
from llave_hf.data.described.sides import SideTemplates, side_templates
from llave_hf.data.described.templates import Template, Values
from llave_hf.evaluation.benchmark.fields import BenchmarkError, mapping, text
from llave_hf.evaluation.benchmark.pictures import PictureError, is_picture, store_picture
from llave_hf.evaluation.benchmark.raw import RawInput

SIDES = (", query", ", target")  # for messages


class Side(SideTemplates):
    """Templates of a text and of the path of a picture or video, filled for a row of a benchmark."""

    def fill(self, values: Values, place: str) -> RawInput:
        """The side of a row.

        Raises:
            BenchmarkError: a column is missing or cannot be used, or everything is empty; the message names it.
        """
        try:
            return self._filled(values, place)
        except FieldError as error:
            raise BenchmarkError(str(error)) from error

    def _filled(self, values: Values, place: str) -> RawInput:
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
        suffix = PurePosixPath(fill(self.column, values, place)).suffix
        return self.sides.get(suffix, self.sides[""]).fill(values, place)


def fill(template: Template, values: Values, place: str) -> str:
    """A template with the values of a row.

    Raises:
        BenchmarkError: a column is missing or cannot be used; the message names it.
    """
    try:
        return template.fill(values, place)
    except FieldError as error:
        raise BenchmarkError(str(error)) from error


def template_from(value: str, where: str) -> Template:
    """From a field of a benchmark file.

    Raises:
        BenchmarkError: the braces are wrong; the message names the field.
    """
    try:
        return Template(value, where)
    except FieldError as error:
        raise BenchmarkError(str(error)) from error


def side_from(value: Any, where: str) -> Side | SideByCase:
    """From a field of a benchmark file.

    Raises:
        BenchmarkError: it is neither text nor a mapping of text, image and video; the message names the field.
    """
    if isinstance(value, Mapping) and "case" in value:
        fields = mapping(value, where, required=("case", "other"))
        column = template_from(f"{{{text(fields.pop('case'), f'{where}: case')}}}", f"{where}: case")
        sides = {"" if name == "other" else name: _plain(side, f"{where}: {name}") for name, side in fields.items()}
        return SideByCase(column, sides)
    return _plain(value, where)


def _plain(value: Any, where: str) -> Side:
    try:
        made = side_templates(value, where)
    except FieldError as error:
        raise BenchmarkError(str(error)) from error
    return Side(made.text, made.image, made.video)
