"""Conditions of a search as LanceDB's SQL; whatever a user writes becomes a quoted string or a number."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta

from llave_hf.errors import UserError

from .files import KINDS

Moment = str | date | datetime
_NANOSECONDS = 1_000_000_000


def quoted(value: str) -> str:
    """A string in SQL."""
    return "'" + value.replace("'", "''") + "'"


def one_of(column: str, values: Iterable[str]) -> str:
    """`column IN (…)`."""
    return f"{column} IN ({', '.join(map(quoted, values))})"


def condition(
    kinds: Iterable[str] | None = None,
    folder: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> str | None:
    """All filters of a search, joined; None where there is none.

    Args:
        kinds: `text`, `image`, `video`.
        folder: A folder's name or path, wherever it lies below an indexed folder: `cats`, `2024/cats`.
        since, until: When a file was last changed, as `2025-01-31`, `2025-01-31T12:00`, or an object of `datetime`;
            of a day alone, `since` means its beginning and `until` its end, on this machine's clock.

    Raises:
        UserError: A kind or a date is none, or the folder leads upwards.
    """
    parts = []
    if kinds:
        parts.append(one_of("kind", _checked(kinds)))
    if folder and (clean := _clean(folder)):
        parts.append(f"contains(concat('/', path), {quoted(f'/{clean}/')})")
    if since is not None:
        parts.append(f"modified >= {_nanoseconds(since, end=False)}")
    if until is not None:
        parts.append(f"modified < {_nanoseconds(until, end=True)}")
    return " AND ".join(parts) or None


def _checked(kinds: Iterable[str]) -> list[str]:
    chosen = list(kinds)
    if unknown := sorted(set(chosen) - set(KINDS)):
        raise UserError(f"kind is {unknown[0]!r}; choose among {', '.join(KINDS)}.")
    return chosen


def _clean(folder: str) -> str:
    path = posixpath.normpath(folder.replace("\\", "/")).strip("/")
    if path.startswith(".."):
        raise UserError(f"folder is {folder!r}; name one inside the indexed folder, such as cats or 2024/cats.")
    return "" if path == "." else path


def _nanoseconds(moment: Moment, *, end: bool) -> int:
    if isinstance(moment, str):
        try:
            moment = date.fromisoformat(moment) if len(moment) == 10 else datetime.fromisoformat(moment)
        except ValueError as error:
            raise UserError(f"{moment!r} is no date; write 2025-01-31 or 2025-01-31T12:00.") from error
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment + timedelta(days=end), time.min)
    return int(moment.timestamp()) * _NANOSECONDS
