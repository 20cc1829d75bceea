"""Vectors of many samples, kept on disk piece by piece, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from .media import resolve_media_path
from .samples import Sample

PIECE = 2048  # samples


class EmbeddingCache:
    """Encodes samples with a model and remembers the vectors by content.

    Args:
        encoder: Anything with `encode(list, batch_size=…)`.
        folder: Where the pieces lie; None keeps nothing.
        identity: Of the model, so that another one's vectors are never taken; see [`model_identity`].
        batch_size: Inputs a forward pass; None leaves it to the encoder.
    """

    def __init__(
        self,
        encoder: Any,
        folder: Path | None,
        identity: str,
        batch_size: int | None = None,
        show_progress: bool = True,
    ) -> None:
        self.encoder = encoder
        self.folder = folder
        self.identity = identity
        self.batch_size = batch_size
        self.show_progress = show_progress

    def encode(self, samples: Sequence[Sample], what: str) -> np.ndarray:
        """Vectors `(n, D)` float32, L2-normalised.

        Args:
            samples: Distinct samples.
            what: Names the progress bar.
        """
        starts = range(0, len(samples), PIECE)
        pieces = [
            self._piece(samples[start : start + PIECE])
            for start in tqdm(starts, desc=what, unit="piece", disable=not self.show_progress)
        ]
        return np.concatenate(pieces)

    def _piece(self, samples: Sequence[Sample]) -> np.ndarray:
        path = None
        if self.folder is not None:
            digest = hashlib.sha256(self.identity.encode())
            for sample in samples:
                digest.update(sample.key().to_bytes(8, "little", signed=True))
            path = self.folder / f"{digest.hexdigest()[:32]}.safetensors"
            if path.exists():
                return load_file(path)["vectors"]
        options = {} if self.batch_size is None else {"batch_size": self.batch_size}
        vectors = np.asarray(self.encoder.encode([as_input(s) for s in samples], **options), dtype=np.float32)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}.tmp")
            save_file({"vectors": vectors}, unfinished)
            unfinished.rename(path)  # whole or not at all
        return vectors


def as_input(sample: Sample) -> str | dict[str, Any]:
    """A sample as `encode` takes it, its paths resolved inside their media root."""
    if not sample.images and sample.video is None:
        return sample.text
    entry: dict[str, Any] = {"text": sample.text} if sample.text else {}
    if sample.images:
        paths = [str(resolve_media_path(path, sample.media_root)) for path in sample.images]
        entry["image"] = paths[0] if len(paths) == 1 else paths
    if sample.video is not None:
        entry["video"] = str(resolve_media_path(sample.video, sample.media_root))
    return entry


def model_identity(model: str | os.PathLike[str]) -> str:
    """What changes when a model does: for a folder its weight files' names, sizes and times, else the Hub id."""
    root = Path(model)
    if not root.is_dir():
        return os.fspath(model)
    files = sorted(path for path in root.glob("*") if path.suffix in (".safetensors", ".json", ".jinja"))
    return "\n".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
