"""Vectors of many inputs from a model and its processor: what evaluation during training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from llave_hf.model.media_pictures_llave import as_sequence
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor

from .bare_inputs import is_clip, is_medium
from .engine import EncodingEngine, EncodingOptions
from .failures import Failures, check_on_error, with_gaps
from .meter import Meter
from .rows import Features

INPUT_KEYS = frozenset({"text", "image", "video"})


class LlaveEncoder:
    """A model and its processor behind the one method that evaluation asks for.

    Args:
        model: In any mode; it is put in evaluation mode while it encodes, and back.
        processor: The model's own.
        lean: Whether to leave out what no embedding needs (see [`LeanDecoding`]).
    """

    def __init__(self, model: LlaveModel, processor: LlaveProcessor, *, lean: bool = True) -> None:
        self.model = model
        self.processor = processor
        self._engine = EncodingEngine(model, processor, self._preprocess, self._forward, _is_text, lean)

    @property
    def max_seq_length(self) -> int:
        """The processor's `max_length`, by sentence-transformers' name."""
        return self.processor.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.processor.max_length = value

    def encode(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        on_error: str = "raise",
        reasons: dict[int, str] | None = None,
        meter: Meter | None = None,
        **_: Any,
    ) -> Any:
        """Embeds n inputs; each distinct one once, alike lengths together (see [`EncodingEngine`]).

        Args:
            inputs: Strings, pictures in any form of [`load_image`], or mappings with the keys `text`, `image` (one or
                several) and `video`; in a list or any other sequence.
            batch_size: Inputs a forward pass at most.
            on_error: What to do about inputs that cannot be used: `"raise"` a ValueError that names the first one's
                place, or `"none"`: encode the others. An input whose vector is not finite is one of them then.
            reasons: With `"none"`, is given the place of each such input and what is wrong with it; without, a warning
                says so.
            meter: Is told what it took.

        Returns:
            `(n, D)` float32, in the order of `inputs`; with `on_error="none"` a list of n vectors `(D,)`, None for an
            input that cannot be used.
        """
        check_on_error(on_error)
        entries = as_sequence(inputs)
        if entries is None and getattr(inputs, "ndim", 0) != 4:
            raise ValueError(f"encode got {type(inputs).__name__}; give a list of inputs, also for one: [input].")
        entries = list(inputs) if entries is None else entries
        failures: Failures | None = {} if on_error == "none" else None
        options = EncodingOptions(max_rows=batch_size, show_progress_bar=show_progress_bar)
        was_training = self.model.training
        self.model.eval()
        try:
            vectors = self._engine.encode(entries, options, failures, meter)
        finally:
            self.model.train(was_training)
        size = self.model.config.hidden_size
        made = torch.stack(vectors).numpy() if vectors else np.empty((0, size), dtype=np.float32)
        return made if failures is None else with_gaps(made, len(entries), failures, reasons)

    def _preprocess(self, entries: list[Any]) -> Mapping[str, Any]:
        samples = [as_mapping(entry) for entry in entries]
        return self.processor(
            text=[sample.get("text") or "" for sample in samples],
            images=[sample.get("image") for sample in samples],
            videos=[sample.get("video") for sample in samples],
        )

    def _forward(self, batch: Features) -> torch.Tensor:
        device = self.model.device
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
        return self.model(**moved).embeddings.float().cpu()


def as_mapping(entry: Any) -> Mapping[str, Any]:
    """One input of `encode` as a mapping; raises ValueError where it cannot be one."""
    if isinstance(entry, str):
        return {"image" if entry.startswith("data:image/") else "text": entry}  # as sentence-transformers
    if isinstance(entry, Mapping) and not is_medium(entry):
        unknown = set(entry) - INPUT_KEYS
        if unknown or not entry:
            raise ValueError(
                f"it has the keys {sorted(map(str, entry))}; an input is a string, a picture, or a mapping with some "
                f"of {', '.join(sorted(INPUT_KEYS))}."
            )
        if all(value is None for value in entry.values()):
            raise ValueError(f"it has nothing but None under {', '.join(sorted(entry))}; give it a text or a picture.")
        return entry
    if entry is None:
        raise ValueError("it is None; an input is a string, a picture, or a mapping.")
    return {"video" if is_clip(entry) else "image": entry}


def _is_text(entry: Any) -> bool:
    sample = as_mapping(entry)
    return sample.get("image") is None and sample.get("video") is None
