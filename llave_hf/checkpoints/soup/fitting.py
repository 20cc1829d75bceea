"""Whether models can be merged: one architecture, pooling, prompt, resolution and vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llave_hf.errors import UserError
from llave_hf.model.sentence_transformer_layout_llave import PROMPTS
from llave_hf.runtime.places import find_file

from .parents import Parent

# What saving writes down about itself, and how a model computes.
_NOT_COMPARED = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_commit_hash"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "use_cache"),
}
# How much of an input is read, and by which library: any model may be asked for another.
_MAY_DIFFER = {"max_length", "backend", "num_frames", "max_frames", "sampling_fps"}
_SHOWN = 60  # characters of a value
_LISTED = 8  # entries of a list that is shown whole
_ABSENT = "nothing"


def check_fit(parents: list[Parent]) -> list[str]:
    """Compares all models with the first.

    Returns:
        Settings that may differ and do, a line each: the first model's are kept.

    Raises:
        UserError: They differ in what their weights mean; the first such field and both values.
    """
    first = parents[0]
    settings, remarks = _settings(first), []
    for other in parents[1:]:
        for field, one, two in _differences("", settings, _settings(other)):
            if field.removeprefix("processor.") in _MAY_DIFFER:
                remarks.append(f"{field}: {_short(one)} of {first.name} is kept; {other.name} has {_short(two)}")
                continue
            raise UserError(
                f"{first.name} and {other.name} cannot be merged: {field} is {_short(one)} in the first and "
                f"{_short(two)} in the second; merge models that were trained from one start with the same settings."
            )
        _check_tensors(first, other)
    return remarks


def check_base(base: Parent, first: Parent) -> None:
    """Compares what models were trained from with the first of them: only its weights are used.

    Raises:
        UserError: It has other weights or another vocabulary.
    """
    for field, there, here in _differences("tokenizer", _tokenizer(base), _tokenizer(first)):
        raise UserError(
            f"{base.name} is no base of {first.name}: {field} is {_short(there)} in the base and {_short(here)} in "
            "the model; name what the model was trained from."
        )
    _check_tensors(base, first)


def _settings(parent: Parent) -> dict[str, Any]:
    processor = _meaning(parent.processor.to_dict())
    file = find_file(parent.home, "config_sentence_transformers.json")
    prompts = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    return {
        "config": _meaning(parent.model.config.to_dict()),
        "processor": {**processor, "chat_template": parent.processor.chat_template},
        "tokenizer": _tokenizer(parent),
        "prompts": prompts.get("prompts", PROMPTS),
        "default_prompt_name": prompts.get("default_prompt_name"),
    }


def _meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _meaning(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _NOT_COMPARED
    }


def _tokenizer(parent: Parent) -> dict[str, Any]:
    tokenizer = parent.processor.tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    of_the_last_call = ("padding", "truncation")
    kept = {key: value for key, value in content.items() if key not in of_the_last_call}
    return {**kept, "special_tokens": tokenizer.special_tokens_map}


def _differences(name: str, one: Any, two: Any) -> Iterator[tuple[str, Any, Any]]:
    """Fields in which two settings differ, by their dotted name; long lists by the first place."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in [*one, *(key for key in two if key not in one)]:
            field = f"{name}.{key}" if name else str(key)
            yield from _differences(field, one.get(key, _ABSENT), two.get(key, _ABSENT))
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two) > _LISTED:
        for place, (mine, others) in enumerate(zip(one, two, strict=True)):
            if mine != others:
                yield from _differences(f"{name}[{place}]", mine, others)
    elif one != two:
        yield name, one, two


def _check_tensors(first: Parent, other: Parent) -> None:
    one, two = first.tensors, other.tensors
    for name in [*one, *two]:
        shapes = [tuple(tensors[name].shape) if name in tensors else _ABSENT for tensors in (one, two)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{first.name} and {other.name} cannot be merged: the weight {name} is {shapes[0]} in the first and "
                f"{shapes[1]} in the second."
            )
        if not one[name].is_floating_point() and not one[name].equal(two[name]):
            raise UserError(
                f"{first.name} and {other.name} cannot be merged: {name} holds whole numbers, which differ."
            )


def _short(value: Any) -> str:
    if isinstance(value, (list, dict)) and len(value) > _LISTED:
        return f"{len(value)} entries"
    text = _ABSENT if value is _ABSENT else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
