"""Checks of what recipes and benchmark files say of columns; every message names file and field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from llave_hf.errors import UserError


class FieldError(UserError):
    """A description of columns, or a row that it is applied to, cannot be used as it is."""


def mapping(
    value: Any, where: str, allowed: Iterable[str] | None = None, required: Iterable[str] = ()
) -> dict[str, Any]:
    """A mapping with text keys, none of them unknown and none of the required ones missing.

    Raises:
        FieldError: it is something else.
    """
    if not isinstance(value, Mapping) or not value:
        raise FieldError(f"{where} must be a mapping (key: value) with at least one entry, not {value!r}.")
    for key in value:
        if not isinstance(key, str):
            raise FieldError(f"{where}: the key {key!r} must be text: put it in quotes.")
        if allowed is not None and key not in allowed:
            raise FieldError(f"{where}: there is no key {key!r}.{nearest(key, allowed)}")
    for key in required:
        if value.get(key) is None:
            raise FieldError(f"{where} lacks {key!r}: add it.")
    return dict(value)


def text(value: Any, where: str) -> str | None:
    """Text that is not empty, or None.

    Raises:
        FieldError: it is something else.
    """
    if value is None or (isinstance(value, str) and value):
        return value
    raise FieldError(f"{where} must be text, not {value!r}: put it in quotes, or leave it out.")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message: the known name that comes closest, or all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known are: {', '.join(known)}."
