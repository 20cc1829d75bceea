"""Checks of a recipe: its keys exist, and their values are of the right type."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from llave_hf.errors import UserError

SWITCHES = {"yes": True, "on": True, "no": False, "off": False}  # as YAML 1.1 has it

FEW = 12  # names that an error lists
NEEDED = ("vocab_size", "vision_config", "text_config")  # of from_scratch


def check_keys(keys: Iterable[Any], known: Collection[str], where: str) -> None:
    """Looks for keys that there are not.

    Raises:
        UserError: Names the first, and the nearest that there is.
    """
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            listed = f"there are {', '.join(known)}." if len(known) <= FEW else "the pages in recipes/ list the keys."
            hint = f"did you mean {near[0]!r}?" if near else listed
            raise UserError(f"{where} has the key {key!r}, which does not exist; {hint}")


def switch_words(values: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """`yes`, `no`, `on` and `off` as truth where a key takes a switch, and in all that stands within a key; as words
    where a key takes words, as in descriptions of data."""
    return {
        key: _switched(value)
        if (isinstance(value, (Mapping, list)) and hints[key] is not Any) or bool in _choices(hints[key])
        else value
        for key, value in values.items()
    }


def _switched(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _switched(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_switched(inner) for inner in value]
    return SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def check_kinds(values: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """Numbers, switches, lists and mappings must be such: dataclasses take anything, and fail later, elsewhere.

    Args:
        values: Of a recipe, by key.
        hints: The types of all keys.
        where: Where the values stand, for messages.

    Raises:
        UserError: Names the first that is of another kind.
    """
    for key, value in values.items():
        if not any(_fits(value, kind) for kind in _choices(hints[key])):
            wanted = " or ".join(sorted(_name(kind) for kind in _choices(hints[key])))
            raise UserError(f"{where} gives {key} the value {value!r}; it takes {wanted}.")


def check_from_scratch(fields: Mapping[str, Any], known: Collection[str]) -> None:
    """The shape of a model with random weights, before a tokenizer is trained for it.

    Raises:
        UserError: A key is missing or does not exist, or heads do not share out a width evenly.
    """
    check_keys(fields, known, "from_scratch")
    for key in NEEDED:
        if not isinstance(fields.get(key), int if key == "vocab_size" else Mapping):
            wanted = "a whole number" if key == "vocab_size" else "a mapping"
            raise UserError(f"from_scratch.{key} is {fields.get(key)!r}; give {wanted}, as recipes/tiny.yaml does.")
    for part in NEEDED[1:]:
        width, heads = (fields[part].get(name) for name in ("hidden_size", "num_attention_heads"))
        if not (isinstance(width, int) and isinstance(heads, int)) or "head_dim" in fields[part]:
            continue  # transformers' own
        step = heads if part == "vision_config" else 2 * heads  # rotary positions turn pairs of numbers
        if heads < 1 or width % step:
            raise UserError(
                f"from_scratch.{part} has hidden_size {width} and num_attention_heads {heads}; hidden_size must be a "
                f"multiple of {step}."
            )


def _choices(hint: Any) -> tuple[Any, ...]:
    """What a field may hold."""
    return get_args(hint) if get_origin(hint) not in (None, list, dict) else (hint,)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        (entry,) = get_args(kind)
        return isinstance(value, list) and all(_fits(one, entry) for one in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict)
    if kind in (bool, int, float, NoneType):
        return type(value) is kind or (kind is float and type(value) is int)
    return True  # texts are looked at where they are used


def _name(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list of {_name(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "a mapping"
    return "null" if kind is NoneType else getattr(kind, "__name__", str(kind))
