"""The settings of what is trained (freeze, lora, learning_rates, ...), checked before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

PARTS = ("vision_tower", "projector", "language_model")
STACKS = ("vision_tower", "language_model")  # parts that are stacks of layers
ALL_LINEAR = "all-linear"
MASTER_WEIGHTS = ("float32", "bfloat16")


@dataclass(frozen=True)
class LoraSettings:
    """A recipe's `lora` (Hu et al., 2021, arXiv 2106.09685): W + alpha / r · B A, with A and B trained.

    Attributes:
        r: Rank of B A.
        alpha: Its scale, times r.
        dropout: Of A's inputs.
        parts: That get adapters. The projector is trained whole unless it is named here or frozen; nothing else is.
        modules: `all-linear`, or names of linear layers (`q_proj`, ...).
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    parts: Sequence[str] = ("language_model",)
    modules: str | Sequence[str] = ALL_LINEAR

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> LoraSettings:
        """Reads the mapping of a recipe.

        Raises:
            ValueError: A key or value is none of LoRA's.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(fields) - set(known)):
            raise ValueError(f"lora has the keys {', '.join(unknown)}; it takes {', '.join(known)}.")
        made = cls(**fields)
        if type(made.r) is not int or made.r < 1:
            raise ValueError(f"lora.r is {made.r!r}; give a whole number of at least 1.")
        if type(made.alpha) is not int or made.alpha < 1:
            raise ValueError(f"lora.alpha is {made.alpha!r}; give a whole number of at least 1.")
        if not _is_number(made.dropout) or not 0 <= made.dropout < 1:
            raise ValueError(f"lora.dropout is {made.dropout!r}; give a number of at least 0 and below 1.")
        _check_parts("lora.parts", made.parts, PARTS)
        if isinstance(made.modules, str) and made.modules != ALL_LINEAR:
            raise ValueError(f"lora.modules is {made.modules!r}; give {ALL_LINEAR} or a list of layers' names.")
        return made


def frozen_parts(freeze: Sequence[str], lora: Mapping[str, Any] | None) -> set[str]:
    """The parts in which nothing is trained."""
    if lora is None:
        return set(freeze)
    return set(freeze) | (set(STACKS) - set(LoraSettings.of(lora).parts))


class TuningArguments(Protocol):
    """The arguments of a run that say which parts are trained, and how."""

    freeze: list[str]
    lora: dict[str, Any] | None
    learning_rates: dict[str, float] | None
    master_weights: str
    checkpoint_parts: list[str] | None
    gradient_checkpointing: bool
    gradient_checkpointing_kwargs: dict[str, Any] | None


def check_tuning(args: TuningArguments) -> None:
    """Refuses settings of tuned parts that contradict each other.

    Raises:
        ValueError: Names the key and what to do.
    """
    if unknown := sorted(set(args.freeze) - set(PARTS)):
        raise ValueError(f"freeze names {', '.join(unknown)}; the parts are {', '.join(PARTS)}.")
    if args.lora is not None:
        both = sorted(set(LoraSettings.of(args.lora).parts) & set(args.freeze))
        if both:
            raise ValueError(f"{', '.join(both)} stands in freeze and in lora.parts; take it out of one of them.")
    frozen = frozen_parts(args.freeze, args.lora)
    if frozen == set(PARTS):
        raise ValueError("freeze names all parts, which leaves nothing to train; leave one out.")
    _check_learning_rates(args.learning_rates, frozen)
    if args.checkpoint_parts is not None:
        _check_parts("checkpoint_parts", args.checkpoint_parts, STACKS)
        if not args.gradient_checkpointing:
            raise ValueError("checkpoint_parts is given without gradient_checkpointing: true; add it.")
    if args.gradient_checkpointing and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
        raise ValueError("use_reentrant: true loses gradients where a part is frozen; leave it out.")
    if args.master_weights not in MASTER_WEIGHTS:
        raise ValueError(f"master_weights is {args.master_weights!r}; choose {' or '.join(MASTER_WEIGHTS)}.")


def _check_learning_rates(rates: Mapping[str, Any] | None, frozen: set[str]) -> None:
    for part, rate in (rates or {}).items():
        if part not in PARTS:
            raise ValueError(f"learning_rates names {part!r}; the parts are {', '.join(PARTS)}.")
        if part in frozen:
            raise ValueError(f"learning_rates gives {part} a rate, but it is frozen; take it out of one of them.")
        if not _is_number(rate) or rate < 0:
            raise ValueError(f"learning_rates.{part} is {rate!r}; give a number of at least 0.")


def _check_parts(key: str, given: Any, allowed: Sequence[str]) -> None:
    if isinstance(given, str) or not given or not set(given) <= set(allowed):
        raise ValueError(f"{key} is {given!r}; give a list of {', '.join(allowed)}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
