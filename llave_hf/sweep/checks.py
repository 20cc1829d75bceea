"""Checks of what stands in a sweep's YAML file; each names the place that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llave_hf.errors import UserError


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The value, a mapping; nothing at all (`name:`) is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}; it must be a mapping of keys to values.")
    return value


def named_entries(raw: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The mapping under a key, by names."""
    entries = mapping(raw.get(key), f"{where}: {key}")
    if not entries:
        raise UserError(f"{where}: {key} is missing or empty; name at least one.")
    for name in entries:
        if isinstance(name, bool):
            raise UserError(f"{where}: YAML reads a name in {key} as {name}; put on, off, yes and no in quotes.")
    return {str(name): entry for name, entry in entries.items()}


def check_number(value: Any, where: str) -> int:
    """The value, a whole number above 0."""
    if type(value) is not int or value < 1:
        raise UserError(f"{where} is {value!r}; give a whole number above 0.")
    return value


def check_share(value: Any, budget: int, where: str) -> int:
    """How many of the budget's pairs a share of it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UserError(f"{where} is {value!r}; give a number above 0 and at most 1, of budget_pairs.")
    pairs = round(value * budget)
    if abs(pairs - value * budget) > 1e-6:
        raise UserError(
            f"{where} is {value!r}, of {budget:,} pairs {value * budget:,.2f}; give a share that is whole."
        )
    return pairs


def check_seeds(value: Any, where: str) -> tuple[int, ...]:
    """The value, a list of distinct whole numbers."""
    if not isinstance(value, list) or not value or any(type(seed) is not int for seed in value):
        raise UserError(f"{where} is {value!r}; give a list of whole numbers, such as [0, 1, 2].")
    if len(set(value)) < len(value):
        raise UserError(f"{where} is {value!r}; name each once, or an interval would count a run twice.")
    return tuple(value)
