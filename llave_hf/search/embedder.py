"""A model as a collection uses it: unit vectors, and the vectors of fixed inputs by which it is known again."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from llave_hf.encoding.failures import NOT_FINITE
from llave_hf.errors import UserError
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.runtime.progress import forward_bar

# Inputs whose vectors tell models apart, whatever folder, device or dtype they come in.
PROBE_TEXTS = ("a dog in the snow", "Represent the following text: blue squares, 17 of them")
SAME_MODEL = 0.99  # cosine; bfloat16 moves a vector by less than 0.001
ZEROS = "the model gives it a vector of zeros, which is near to nothing"  # as some do for unknown words

Gapped = list[np.ndarray | None]


class Embedder:
    """Unit vectors from whatever has `encode(list)`.

    Args:
        model: A folder, a Hub id, or an encoder.
        dtype: What a model that is opened here computes in; None: see [`load_encoder`].
    """

    def __init__(self, model: Any, dtype: str | None = None) -> None:
        self.name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else "an encoder"
        if isinstance(model, (str, os.PathLike)):
            from llave_hf.encoding.sentence_transformer import load_encoder

            if os.path.isdir(model):
                self.name = os.path.abspath(model)
            model = load_encoder(model, **({"dtype": dtype} if dtype else {}))
        self.encoder = model
        self._unchecked: _Expected | None = None

    def vectors(self, inputs: Sequence[Any], *, progress: bool = False) -> np.ndarray:
        """`(n, D)` float32, L2-normalised; with a bar where `progress` and it takes long.

        Raises:
            ValueError: An input cannot be used. UserError: See [`expect`][Embedder.expect].
        """
        self._check_pictures_of(inputs)
        return self._vectors(inputs, progress=progress)

    def usable(
        self, inputs: Sequence[Any], *, progress: bool = False
    ) -> tuple[list[np.ndarray | None], dict[int, str]]:
        """Each input's vector as in [`vectors`][Embedder.vectors], None for those that cannot be used; and why, by
        their places.

        Raises:
            UserError: See [`expect`][Embedder.expect].
        """
        if "on_error" not in inspect.signature(self.encoder.encode).parameters:
            return self._halved(inputs, 0, progress)
        self._check_pictures_of(inputs)
        reasons: dict[int, str] = {}
        with self._bar(inputs) if progress else contextlib.nullcontext():
            made = self.encoder.encode(list(inputs), show_progress_bar=False, on_error="none", reasons=reasons)
        vectors = [None if vector is None else _unit(np.asarray(vector, dtype=np.float32)) for vector in made]
        return vectors, {place: text.removeprefix(f"input {place}: ") for place, text in reasons.items()}

    def _halved(self, inputs: Sequence[Any], first: int, progress: bool) -> tuple[Gapped, dict[int, str]]:
        """Halves a list of which an input cannot be used, to find which: for encoders that do not tell."""
        try:
            return list(self.vectors(inputs, progress=progress)), {}
        except UserError:  # the collection was made with another model
            raise
        except ValueError as error:
            if len(inputs) == 1:
                return [None], {first: str(error).removeprefix("input 0: ")}
        half = len(inputs) // 2
        vectors, reasons = self._halved(inputs[:half], first, progress)
        others, more = self._halved(inputs[half:], first + half, progress)
        return vectors + others, {**reasons, **more}

    def _check_pictures_of(self, inputs: Sequence[Any]) -> None:
        if self._unchecked is not None and not all(isinstance(entry, str) for entry in inputs):
            self.check_pictures()

    def check_pictures(self) -> None:
        """The second half of [`expect`][Embedder.expect], done once."""
        if self._unchecked is not None:
            self._compare([{"image": _drawn()}], self._unchecked, slice(len(PROBE_TEXTS), None))
            self._unchecked = None

    def _vectors(self, inputs: Sequence[Any], *, progress: bool = True) -> np.ndarray:
        with self._bar(inputs) if progress else contextlib.nullcontext():
            made = np.asarray(self.encoder.encode(list(inputs), show_progress_bar=False), dtype=np.float32)
        for unfit, reason in ((~np.isfinite(made).all(axis=1), NOT_FINITE), (~made.any(axis=1), ZEROS)):
            if unfit.any():
                raise ValueError(f"input {int(unfit.argmax())}: {reason}")
        return _unit(made)

    def _bar(self, inputs: Sequence[Any]) -> contextlib.AbstractContextManager[None]:
        """For a few texts and pictures, of which one may take a large model half a minute on a CPU."""
        network = getattr(self.encoder, "transformers_model", None) or getattr(self.encoder, "model", None)
        samples = [{"text": entry} if isinstance(entry, str) else entry for entry in inputs]
        if not isinstance(network, LlaveModel) or any("video" in sample for sample in samples):
            return contextlib.nullcontext()
        try:
            prepared = [
                self.encoder.processor(text=[sample.get("text") or ""], images=[sample.get("image")])
                for sample in samples
            ]
        except ValueError:  # of an input that cannot be used, which is said where it is encoded
            return contextlib.nullcontext()
        return forward_bar(network, prepared, "Encoding")

    def probe(self) -> np.ndarray:
        """`(3, D)`: the vectors of two texts and a drawn picture."""
        return self._vectors([*PROBE_TEXTS, {"image": _drawn()}])

    def expect(self, recorded: np.ndarray, made_with: str, uri: str) -> None:
        """Compares the probe's vectors with a collection's: of texts now, of the picture before the first one is
        embedded, which takes a model of real size half a minute on a CPU.

        Raises:
            UserError: They are another model's.
        """
        expected = _Expected(recorded, made_with, uri)
        self._compare(PROBE_TEXTS, expected, slice(len(PROBE_TEXTS)))
        self._unchecked = expected

    def _compare(self, inputs: Sequence[Any], expected: _Expected, rows: slice) -> None:
        own, recorded = self._vectors(inputs), expected.vectors
        same_size = own.shape[1] == recorded.shape[1]
        nearness = float((own * recorded[rows]).sum(1).min()) if same_size else None
        if nearness is None or nearness < SAME_MODEL:
            how = (
                f"its vectors have {own.shape[1]} numbers instead of {recorded.shape[1]}"
                if nearness is None
                else f"the cosine of their vectors of the same input is {nearness:.3f}"
            )
            raise UserError(
                f"{expected.uri} was made with the model {expected.made_with}, and {self.name} is another: {how}. "
                "Name the first, or make the collection anew with llave index --rebuild."
            )


@dataclass(frozen=True)
class _Expected:
    """A collection's record of its probe `(3, D)`, and what messages call model and collection."""

    vectors: np.ndarray
    made_with: str
    uri: str


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _drawn() -> Image.Image:
    across, down = np.meshgrid(np.arange(96), np.arange(64))
    disc = (across - 30) ** 2 + (down - 32) ** 2 < 400
    pixels = np.stack([across * 2, down * 3, np.where(disc, 255, 40)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))
