"""Vectors of many samples, kept on disk by content and model, so that a stopped run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from llave_hf.data.media import locate
from llave_hf.data.samples import Sample
from llave_hf.data.stored.pictures import StoredPicture
from llave_hf.encoding.failures import NOT_FINITE
from llave_hf.encoding.model_identity import ModelIdentity, path_revision
from llave_hf.errors import UserError

from .content_digests import ContentDigests
from .store import VectorStore

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
        self.batch_size = batch_size
        self.show_progress = show_progress
        self._store = None if folder is None else VectorStore(folder, identity)
        self._digests = ContentDigests()

    def encode(self, samples: Sequence[Sample], what: str) -> np.ndarray:
        """Vectors `(n, D)` float32, L2-normalised; one of zeros stays as it is.

        Args:
            samples: Distinct samples.
            what: Names the progress bar.

        Raises:
            ValueError: A sample cannot be encoded, or its vector is not finite.
        """
        return np.concatenate([self._piece(piece) for piece in self._pieces(samples, what)])

    def fill(self, samples: Sequence[Sample], what: str, tell: Callable[[Sample, Exception], None]) -> None:
        """Encodes what the folder does not hold yet; `tell` is given each sample that cannot be encoded, and why.

        Args:
            samples, what: See `encode`.
            tell: May raise, to end it.
        """
        for piece in self._pieces(samples, what):
            self._fill_piece(piece, tell)

    def _fill_piece(self, samples: Sequence[Sample], tell: Callable[[Sample, Exception], None]) -> None:
        """Halves a piece that fails until the samples at fault stand alone."""
        try:
            self._piece(samples)
        except UserError:  # of the folder
            raise
        except (ValueError, OSError) as error:
            if len(samples) == 1:
                tell(samples[0], error)
                return
            middle = len(samples) // 2
            self._fill_piece(samples[:middle], tell)
            self._fill_piece(samples[middle:], tell)

    def _pieces(self, samples: Sequence[Sample], what: str) -> Iterator[Sequence[Sample]]:
        if self._store is not None:
            self._store.refresh()
        starts = range(0, len(samples), PIECE)
        for start in tqdm(starts, desc=what, unit="piece", disable=not self.show_progress):
            yield samples[start : start + PIECE]

    def _piece(self, samples: Sequence[Sample]) -> np.ndarray:
        if self._store is None:
            return self._made(samples)
        keys = self._digests.keys(samples)
        places = self._store.find(keys)
        known, wanted = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
        parts = [(known[positions], vectors) for positions, vectors in self._store.read(places[known])]
        if len(wanted):
            made = self._made([samples[number] for number in wanted.tolist()])
            self._store.add(keys[wanted], made)
            parts.append((wanted, made))
        piece = np.empty((len(samples), parts[0][1].shape[1]), dtype=np.float32)
        for numbers, vectors in parts:
            piece[numbers] = vectors
        return piece

    def _made(self, samples: Sequence[Sample]) -> np.ndarray:
        options = {} if self.batch_size is None else {"batch_size": self.batch_size}
        vectors = np.asarray(self.encoder.encode([as_input(s) for s in samples], **options), dtype=np.float32)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise ValueError(f"{samples[int(np.argmin(finite))]}: {NOT_FINITE}.")
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def as_input(sample: Sample) -> str | dict[str, Any]:
    """A sample as `encode` takes it, its paths resolved inside their media root, pictures of tables as bytes."""
    if not sample.images and sample.video is None:
        return sample.text
    entry: dict[str, Any] = {"text": sample.text} if sample.text else {}
    if sample.images:
        images = [
            image.read() if isinstance(image, StoredPicture) else str(locate(image, sample.media_root))
            for image in sample.images
        ]
        entry["image"] = images[0] if len(images) == 1 else images
    if sample.video is not None:
        entry["video"] = str(locate(sample.video, sample.media_root))
    return entry


def model_identity(model: str | os.PathLike[str]) -> str:
    """What changes when a folder's or a Hub id's model, or what computes its vectors, does."""
    return ModelIdentity(path_revision(model), None, None).vectors()
