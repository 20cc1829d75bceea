"""One side of a row from templates: `query: "Find …: {caption}"`, or `positive: {text: …, image: …, video: …}`.

A picture or video without braces is the name of a column: `image: picture` says what `image: "{picture}"` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .fields import mapping, text
from .templates import Template

PARTS = ("text", "image", "video")


@dataclass(frozen=True)
class SideTemplates:
    """Templates of a text and of the path of a picture or video; a picture may be a column of pictures instead."""

    text: Template | None = None
    image: Template | None = None
    video: Template | None = None

    def templates(self) -> list[Template]:
        """Those that there are."""
        return [one for one in (self.text, self.image, self.video) if one is not None]


def side_templates(value: Any, where: str) -> SideTemplates:
    """From a field of a recipe or a benchmark file.

    Raises:
        FieldError: it is neither text nor a mapping of text, image and video; the message names the field.
    """
    if isinstance(value, Mapping):
        fields = mapping(value, where, PARTS)
        return SideTemplates(**{part: _template(part, entry, f"{where}: {part}") for part, entry in fields.items()})
    return SideTemplates(Template(text(value, where) or "", where))


def _template(part: str, value: Any, where: str) -> Template:
    written = text(value, where) or ""
    return Template(f"{{{written}}}" if part != "text" and "{" not in written and written else written, where)


@dataclass(frozen=True)
class Description:
    """What the columns of training rows mean."""

    query: SideTemplates
    positive: SideTemplates
    negatives: tuple[SideTemplates, ...] = ()

    def sides(self) -> list[SideTemplates]:
        """All of them."""
        return [self.query, self.positive, *self.negatives]

    def columns(self) -> list[str]:
        """The columns that it names, each once."""
        templates = (template for side in self.sides() for template in side.templates())
        return list(dict.fromkeys(column for template in templates for column in template.columns()))


def description_from(query: Any, positive: Any, negatives: Any, where: str) -> Description:
    """From an entry of `train_data`.

    Args:
        query, positive: A side each.
        negatives: A side, whose columns may hold lists, or a list of sides; None: there are none.
        where: The entry, for messages.

    Raises:
        FieldError: A side is missing or is none; the message names the field.
    """
    for name, value in (("query", query), ("positive", positive)):
        mapping({"": None, name: value}, where, required=(name,))
    listed = negatives if isinstance(negatives, list) else [] if negatives is None else [negatives]
    return Description(
        side_templates(query, f"{where}: query"),
        side_templates(positive, f"{where}: positive"),
        tuple(side_templates(side, f"{where}: negatives") for side in listed),
    )
