"""Vectors of many inputs from a model and its processor: what evaluation during training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor

from .engine import EncodingEngine, EncodingOptions
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
        **_: Any,
    ) -> np.ndarray:
        """Embeds n inputs; each distinct one once, alike lengths together (see [`EncodingEngine`]).

        Args:
            inputs: Strings, pictures, or mappings with the keys `text`, `image` (one or several) and `video`.
            batch_size: Inputs a forward pass at most.

        Returns:
            `(n, D)` float32, in the order of `inputs`.
        """
        samples = [as_mapping(entry, index) for index, entry in enumerate(inputs)]
        options = EncodingOptions(max_rows=batch_size, show_progress_bar=show_progress_bar)
        was_training = self.model.training
        self.model.eval()
        try:
            vectors = self._engine.encode(samples, options)
        finally:
            self.model.train(was_training)
        if not vectors:
            return np.empty((0, self.model.config.hidden_size), dtype=np.float32)
        return torch.stack(vectors).numpy()

    def _preprocess(self, samples: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self.processor(
            text=[sample.get("text") or "" for sample in samples],
            images=[sample.get("image") for sample in samples],
            videos=[sample.get("video") for sample in samples],
        )

    def _forward(self, batch: Features) -> torch.Tensor:
        device = self.model.device
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
        return self.model(**moved).embeddings.float().cpu()


def as_mapping(entry: Any, index: int) -> Mapping[str, Any]:
    """One input of `encode` as a mapping; raises ValueError that names the input's place where it cannot be one."""
    if isinstance(entry, str):
        return {"text": entry}
    if isinstance(entry, Mapping):
        unknown = set(entry) - INPUT_KEYS
        if unknown or not entry:
            raise ValueError(
                f"input {index} has the keys {sorted(entry)}; an input is a string, a picture, or a mapping with some "
                f"of {', '.join(sorted(INPUT_KEYS))}."
            )
        return entry
    return {"image": entry}


def _is_text(sample: Mapping[str, Any]) -> bool:
    return sample.get("image") is None and sample.get("video") is None
