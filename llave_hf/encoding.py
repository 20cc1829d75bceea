"""Vectors of many inputs from a model and its processor: what evaluation during training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .modeling_llave import LlaveModel
from .processing_llave import LlaveProcessor

INPUT_KEYS = frozenset({"text", "image", "video"})


class LlaveEncoder:
    """A model and its processor behind the one method that evaluation asks for.

    Args:
        model: In any mode; it is put in evaluation mode while it encodes, and back.
        processor: The model's own.
    """

    def __init__(self, model: LlaveModel, processor: LlaveProcessor) -> None:
        self.model = model
        self.processor = processor

    def encode(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        **_: Any,
    ) -> np.ndarray:
        """Embeds n inputs.

        Args:
            inputs: Strings, pictures, or mappings with the keys `text`, `image` (one or several) and `video`.
            batch_size: Inputs a forward pass. Inputs of one kind and like length go together.

        Returns:
            `(n, D)` float32, in the order of `inputs`.
        """
        samples = [as_mapping(entry, index) for index, entry in enumerate(inputs)]
        order = sorted(range(len(samples)), key=lambda index: _weight(samples[index]))
        vectors: np.ndarray | None = None
        was_training = self.model.training
        self.model.eval()
        try:
            starts = tqdm(range(0, len(order), batch_size), desc="Encoding", disable=not show_progress_bar)
            for start in starts:
                chosen = order[start : start + batch_size]
                made = self._encode_batch([samples[index] for index in chosen])
                if vectors is None:
                    vectors = np.empty((len(samples), made.shape[1]), dtype=np.float32)
                vectors[chosen] = made
        finally:
            self.model.train(was_training)
        return np.empty((0, self.model.config.hidden_size), dtype=np.float32) if vectors is None else vectors

    @torch.inference_mode()
    def _encode_batch(self, samples: list[Mapping[str, Any]]) -> np.ndarray:
        batch = self.processor(
            text=[sample.get("text") or "" for sample in samples],
            images=[sample.get("image") for sample in samples],
            videos=[sample.get("video") for sample in samples],
        )
        return self.model(**batch.to(self.model.device)).embeddings.float().cpu().numpy()


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


def _weight(sample: Mapping[str, Any]) -> tuple[int, int, int]:
    """Sorts inputs so that neighbours need like numbers of tokens: texts, then images, then videos."""
    image, video = sample.get("image"), sample.get("video")
    images = len(image) if isinstance(image, (list, tuple)) else int(image is not None)
    frames = len(video) if isinstance(video, (list, tuple)) else 0
    kind = 2 if video is not None else int(images > 0)
    return kind, images + frames, len(sample.get("text") or "")
