"""Prompts and paths with columns in braces, as recipes and benchmark files write them: `Find the video: {caption[0]}`.

What follows a colon changes the value: of a path, `{video:stem}` is the file's name alone and `{path:flat}` the whole
path in one name; of a list, `{options:lines}`, `{options:words}` and `{options:lettered}` join it;
`{option:unlettered}` takes an answer's letter off, and `{turn:unmarked}` the `<image>` and `<video>` of a conversation
that LLaVA trains on, with the line's end beside them. Nothing else is done to a value: white space counts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from llave_hf.model.media_llave import VIDEO_SUFFIXES

from .fields import FieldError, nearest

Values = Mapping[str, Any]

_CONVERSATION_MARK = re.compile(r"\n?<(?:image|video)>$|<(?:image|video)>\n?")


def letter(number: int) -> str:
    """A, B, C, … for 0, 1, 2, …"""
    return chr(ord("A") + number)


def _flat(path: str) -> str:
    """`movie/12.mp4` -> `movie_12`: how the frames of a clip are filed."""
    parsed = PurePosixPath(path)
    return str(parsed.with_suffix("") if parsed.suffix.lower() in VIDEO_SUFFIXES else parsed).replace("/", "_")


def _unlettered(option: str) -> str:
    """`A. A dog.` -> `A dog`."""
    _, mark, rest = option.partition(". ")
    return (rest if mark else option).strip(". ")


def _unmarked(turn: str) -> str:
    """`<video>\\nWhat happens?` -> `What happens?`"""
    return _CONVERSATION_MARK.sub("", turn)


def _lettered(options: list[str]) -> str:
    return "\n".join(f"({letter(number)}) {option}" for number, option in enumerate(options)).rstrip()


OF_TEXT: dict[str, Callable[[str], str]] = {
    "stem": lambda path: PurePosixPath(path).stem,
    "flat": _flat,
    "unlettered": _unlettered,
    "unmarked": _unmarked,
}
OF_LIST: dict[str, Callable[[list[str]], str]] = {"lines": "\n".join, "words": " ".join, "lettered": _lettered}


@dataclass(frozen=True)
class Reference:
    """A column in a template.

    Attributes:
        name: As it is written, without what follows the colon: `caption[0]`.
        column: Its first part: `caption`.
        keys: What is taken of the value, one after the other: an entry of a list, or a field.
        spec: What follows the colon.
    """

    name: str
    column: str
    keys: tuple[int | str, ...]
    spec: str


def _reference(name: str, spec: str) -> Reference:
    keys = tuple(int(key) if key.isdigit() else key for key in re.findall(r"\[([^\]]*)\]", name))
    return Reference(name, name.partition("[")[0], keys, spec)


@dataclass(frozen=True)
class Template:
    """A text with columns in braces; checked when it is made.

    Raises:
        FieldError: the braces do not match, or what follows a colon is unknown; the message names the field.
    """

    text: str
    where: str = field(compare=False)

    def __post_init__(self) -> None:
        known = ("", *OF_TEXT, *OF_LIST)
        try:
            fields = [(name, spec, conversion) for _, name, spec, conversion in _FORMATTER.parse(self.text)]
        except ValueError as error:
            raise FieldError(f"{self.where}: {self.text!r}: {error}; write {{{{ for a brace itself.") from error
        for name, spec, conversion in fields:
            if name is not None and (not name or "." in name or conversion):
                raise FieldError(f"{self.where}: {{{name}}} must be a column, {{column}} or {{column[0]}}.")
            if spec is not None and spec not in known:
                raise FieldError(f"{self.where}: there is no {{{name}:{spec}}}.{nearest(spec, known[1:])}")

    def fill(self, values: Values, place: str) -> str:
        """The text with the values of a row.

        Raises:
            FieldError: a column is missing, empty or of another type; the message names row and column.
        """
        return _FORMATTER.fill(self.text, values, place)

    def parts(self) -> list[tuple[str, Reference | None]]:
        """The template cut up: text, and the column behind it."""
        return [
            (before, None if name is None else _reference(name, spec or ""))
            for before, name, spec, _ in _FORMATTER.parse(self.text)
        ]

    def columns(self) -> list[str]:
        """The columns that it names, each once."""
        return list(dict.fromkeys(found.column for _, found in self.parts() if found is not None))

    def reference(self) -> Reference | None:
        """What is the whole template, or None."""
        parts = self.parts()
        return parts[0][1] if len(parts) == 1 and not parts[0][0] else None

    def column(self) -> str | None:
        """The column that is the whole template as it stands, or None."""
        whole = self.reference()
        return whole.name if whole is not None and not whole.spec else None


class _Formatter(string.Formatter):
    """Python's own, with messages that name the row, and values that are checked."""

    def fill(self, template: str, values: Values, place: str) -> str:
        pieces = []
        for literal, name, spec, _ in self.parse(template):
            pieces.append(literal)
            if name is not None:
                pieces.append(shown(self._value(name, values, place), spec or "", f"{place}: {name}"))
        return "".join(pieces)

    def _value(self, name: str, values: Values, place: str) -> Any:
        try:
            return self.get_field(name, (), values)[0]
        except KeyError as error:
            raise FieldError(f"{place} lacks the column {error} (it has {', '.join(map(str, values))}).") from error
        except (IndexError, TypeError) as error:
            raise FieldError(f"{place}: {name} cannot be read ({error}): the list is too short or none.") from error


_FORMATTER = _Formatter()


def shown(value: Any, spec: str, where: str) -> str:
    """A value as a template shows it.

    Raises:
        FieldError: It is of another type than its place takes; the message begins with `where`.
    """
    if spec in OF_LIST:
        if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
            raise FieldError(f"{where} must be a list of texts, not {value!r:.80}.")
        return OF_LIST[spec](list(value))
    if not isinstance(value, (str, int)):
        raise FieldError(f"{where} must be text or a number, not {value!r:.80}.")
    return OF_TEXT[spec](str(value)) if spec else str(value)
