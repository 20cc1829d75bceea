"""Checks the fields of a benchmark file; every message names file and field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from llave_hf.data.described import fields
from llave_hf.data.described.fields import nearest as nearest
from llave_hf.errors import UserError


class BenchmarkError(UserError):
    """A benchmark file, or the data it points to, cannot be used as it is."""


def mapping(
    value: Any, where: str, allowed: Iterable[str] | None = None, required: Iterable[str] = ()
) -> dict[str, Any]:
    """A mapping with text keys, none of them unknown and none of the required ones missing.

    Raises:
        BenchmarkError: it is something else.
    """
    try:
        return fields.mapping(value, where, allowed, required)
    except fields.FieldError as error:
        raise BenchmarkError(str(error)) from error


def text(value: Any, where: str) -> str | None:
    """Text that is not empty, or None.

    Raises:
        BenchmarkError: it is something else.
    """
    try:
        return fields.text(value, where)
    except fields.FieldError as error:
        raise BenchmarkError(str(error)) from error


def texts(value: Any, where: str) -> tuple[str, ...]:
    """One text or a list of texts; None is none.

    Raises:
        BenchmarkError: it is something else.
    """
    if value is None:
        return ()
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            raise BenchmarkError(f"{where} must be text or a list of texts, not {entry!r}: put it in quotes.")
    return tuple(entries)


def choice(value: str, choices: Iterable[str], where: str) -> str:
    """One of some words.

    Raises:
        BenchmarkError: it is another.
    """
    choices = tuple(choices)
    if value not in choices:
        raise BenchmarkError(f"{where} must be {' or '.join(choices)}, not {value!r}.")
    return value


class Settings:
    """The keys of one task; what they say is checked when they are read.

    Args:
        values: key to value.
        where: file and task, for messages.
        folder: of the benchmark file, for files that it names; None: unknown.
    """

    def __init__(self, values: Mapping[str, Any], where: str, folder: Path | None = None) -> None:
        self.values = values
        self.where = where
        self._folder = folder

    def text(self, key: str) -> str | None:
        """A text, or None where the key is missing."""
        return text(self.values.get(key), f"{self.where}: {key}")

    def texts(self, key: str) -> tuple[str, ...]:
        """One text or several; none where the key is missing."""
        return texts(self.values.get(key), f"{self.where}: {key}")

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        """One of some words."""
        return choice(self.text(key) or default, choices, f"{self.where}: {key}")

    def listed(self, key: str) -> tuple[str, ...]:
        """A list of texts, here or in the YAML file that is named, relative to the benchmark file.

        Raises:
            BenchmarkError: the file is missing or holds something else.
        """
        value = self.values.get(key)
        if not isinstance(value, str):
            return self.texts(key)
        if self._folder is None or not (file := self._folder / value).is_file():
            raise BenchmarkError(f"{self.where}: {key}: there is no file {value} beside the benchmark file.")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BenchmarkError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from error
        return texts(content, str(file))
