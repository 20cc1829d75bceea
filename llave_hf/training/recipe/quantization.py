"""The settings of QLoRA (4-bit weights under an adapter), checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .arguments import LlaveTrainingArguments


@dataclass(frozen=True)
class QuantizationSettings:
    """A recipe's `quantization`.

    Attributes:
        bits: 4.
        type: `nf4` or `fp4`.
        double: Whether the scales of the blocks are quantised too.
        compute_dtype: What a layer's product is computed in: `bfloat16`, `float16` or `float32`.
    """

    bits: int = 4
    type: str = "nf4"
    double: bool = True
    compute_dtype: str = "bfloat16"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> QuantizationSettings:
        """Reads the mapping of a recipe.

        Raises:
            ValueError: A key or value is none that there is.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"quantization has the keys {', '.join(unknown)}; it takes {', '.join(known)}.")
        made = cls(**given)
        allowed = {
            "bits": (4,),
            "type": ("nf4", "fp4"),
            "double": (True, False),
            "compute_dtype": ("bfloat16", "float16", "float32"),
        }
        for name, values in allowed.items():
            if getattr(made, name) not in values:
                raise ValueError(
                    f"quantization.{name} is {getattr(made, name)!r}; choose {', '.join(map(str, values))}."
                )
        return made


def check_quantization(given: Mapping[str, Any] | None, args: LlaveTrainingArguments) -> None:
    """Refuses settings under which nothing could be trained.

    Raises:
        ValueError: Names the key and what to do.
    """
    if given is None:
        return
    QuantizationSettings.of(given)
    if args.lora is None:
        raise ValueError(
            "quantization leaves 4-bit weights, which cannot be trained; add lora, such as lora: {r: 16}."
        )
    if not args.bf16:
        raise ValueError("quantization needs bf16: true, which lets 4-bit, frozen and trained parts meet; add it.")
