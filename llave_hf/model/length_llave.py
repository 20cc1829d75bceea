"""The longest sequence of a processor: one number, which stands where sentence-transformers keeps it.

Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

import operator
import os
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

DEFAULT_MAX_LENGTH = 4096


class LengthLimit:
    """A processor's `max_length`, which is its tokenizer's `model_max_length` and sentence-transformers'
    `max_seq_length`: whoever sets one of them sets all."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens."""
        return int(self.tokenizer.model_max_length)

    @max_length.setter
    def max_length(self, value: int) -> None:
        try:
            limit = operator.index(value)
        except TypeError:
            limit = 0
        if limit < 1:
            raise ValueError(f"max_length is {value!r}; give the longest sequence in tokens, a whole number.")
        self.tokenizer.model_max_length = limit

    def limited_to(self, length: int) -> Any:
        """Itself, with this `max_length`."""
        self.max_length = length
        return self

    def to_dict(self) -> dict[str, Any]:
        """Into processor_config.json: the number is a property, which the base class does not look for."""
        return {**super().to_dict(), "max_length": self.max_length}  # type: ignore[misc]


def chosen_length(kwargs: dict[str, Any]) -> int | None:
    """Takes the length out of arguments of `from_pretrained`, by our name or by sentence-transformers'.

    The tokenizer would keep the first as a setting of its own, and the processor would override the second.
    """
    limits = [kwargs.pop(name) for name in ("max_length", "model_max_length") if name in kwargs]
    return limits[0] if limits else None


def saved_length(folder: str | os.PathLike[str], saved: dict[str, Any], hub: dict[str, Any]) -> int:
    """The length of a saved processor: the lower one where its two files differ, as in folders of earlier releases.

    Args:
        folder: A folder or a Hub id.
        saved: Its processor_config.json.
        hub: `revision`, `token`, ... of the Hub.
    """
    limits = saved.get("max_length"), get_tokenizer_config(folder, **hub).get("model_max_length")
    return min((int(limit) for limit in limits if limit is not None), default=DEFAULT_MAX_LENGTH)


__all__ = ["LengthLimit"]
