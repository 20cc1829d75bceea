"""The vectors of all distinct inputs: each made once, by one of the ranks, or taken from a folder of earlier ones.

Shapes: M distinct inputs, D dimensions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from llave_hf import distributed
from llave_hf.data.vectors.store import Keys, VectorStore
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.inputs import DistinctInputs
from llave_hf.evaluation.scoring.metrics import IntArray

Embeddings = NDArray[np.float32]

BATCHES_PER_CHUNK = 8
CHUNK_PIXELS = 1 << 27  # 400 MB of opened pictures at most (a single larger input apart)
PIECE_VECTORS = 1024  # what a killed run may lose: this many vectors,
PIECE_SECONDS = 30.0  # or this much time
GATHERED_ROWS = 8192  # that ranks exchange at once
MAPPED_BYTES = 1 << 30  # with a cache, a larger table of vectors lies in a file


class Encoder(Protocol):
    """Anything with sentence-transformers' `encode`."""

    def encode(self, inputs: list[Any], /, *, batch_size: int, show_progress_bar: bool) -> Any:
        """Return one vector an input, (n, D), for texts and dicts of `text`, `image` and `video`."""


def encode_inputs(
    model: Encoder,
    inputs: DistinctInputs,
    *,
    batch_size: int,
    show_progress: bool,
    store: VectorStore | None = None,
) -> Embeddings:
    """Encode all inputs, each once; with several ranks each encodes its share, and all get everything.

    Args:
        store: vectors that it has are taken from it, the others are added to it as they are made.

    Returns:
        (M, D) float32, in the order of `inputs`; with a store and above 1 GiB a memory-mapped file in its folder.

    Raises:
        BenchmarkError: a picture or video is broken.
        ValueError: the encoder returns something else than one finite vector an input.
        RuntimeError: another rank failed; the message is that rank's.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    order = inputs.encoding_order()
    share = order[rank::world_size]
    table = _Table(len(inputs), None if store is None else store.folder)
    error: Exception | None = None
    with tqdm(total=len(share), desc="Encoding", unit="input", disable=not show_progress or rank != 0) as bar:
        try:
            with _in_step(model):
                _fill(table, model, inputs, share, batch_size, store, bar)
        except Exception as raised:  # told to the other ranks, which would wait for ever, and raised below
            error = raised
    if world_size > 1:
        reports = distributed.all_gather_object((table.dimensions, error and f"{type(error).__name__}: {error}"))
        for number, (_, failure) in enumerate(reports):
            if failure and error is None:
                raise RuntimeError(f"Evaluation stopped because rank {number} failed: {failure}")
    if error is not None:
        raise error
    if world_size > 1:
        _exchange(table, order, [dimensions for dimensions, _ in reports])
    return table.rows


def _in_step(model: Encoder) -> AbstractContextManager[Any]:
    """What an encoder whose ranks must keep step asks to be within."""
    share: Callable[[], AbstractContextManager[Any]] = getattr(model, "share", nullcontext)
    return share()


class _Table:
    """(M, D) vectors, made when D is known."""

    def __init__(self, length: int, folder: Path | None) -> None:
        self.rows: Embeddings = np.empty((0, 0), dtype=np.float32)
        self.dimensions: int | None = None
        self._length = length
        self._folder = folder

    def put(self, numbers: IntArray, vectors: Embeddings) -> None:
        self.open(vectors.shape[1])
        self.rows[numbers] = vectors

    def open(self, dimensions: int) -> None:
        if self.dimensions is None:
            self.dimensions = dimensions
            shape = self._length, dimensions
            if self._folder is None or 4 * self._length * dimensions <= MAPPED_BYTES:
                self.rows = np.empty(shape, dtype=np.float32)
            else:
                self._folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._folder) as file:  # gone when the map is
                    self.rows = np.memmap(file, np.float32, "w+", shape=shape)
        if dimensions != self.dimensions:
            raise ValueError(f"The encoder returned vectors of {self.dimensions} and of {dimensions} dimensions.")


def _fill(
    table: _Table,
    model: Encoder,
    inputs: DistinctInputs,
    share: IntArray,
    batch_size: int,
    store: VectorStore | None,
    bar: Any,
) -> None:
    """The rows of a share: from the store, then from the model, written to the store piece by piece."""
    if store is None:
        for numbers, vectors in _encode(model, inputs, share, batch_size):
            table.put(numbers, vectors)
            bar.update(len(numbers))
        return
    keys = inputs.content_keys(share)
    places = store.find(keys)
    known, wanted = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
    for positions, vectors in store.read(places[known]):
        table.put(share[known[positions]], vectors)
    bar.total = len(wanted)
    bar.set_postfix_str(f"{len(known):,} from the cache")
    with _Pieces(store) as pieces:
        done = 0
        for numbers, vectors in _encode(model, inputs, share[wanted], batch_size):
            table.put(numbers, vectors)
            pieces.add(keys[wanted[done : done + len(numbers)]], vectors)
            done += len(numbers)
            bar.update(len(numbers))


class _Pieces:
    """Collects vectors until they are worth a file; what is left is written when the `with` ends, however it ends."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._parts: list[tuple[Keys, Embeddings]] = []
        self._written = time.monotonic()

    def __enter__(self) -> _Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, keys: Keys, vectors: Embeddings) -> None:
        self._parts.append((keys, vectors))
        waiting = sum(len(part) for part, _ in self._parts)
        if waiting >= PIECE_VECTORS or time.monotonic() - self._written >= PIECE_SECONDS:
            self._write()

    def _write(self) -> None:
        if self._parts:
            keys, vectors = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
            self._store.add(keys, vectors)
            self._parts = []
        self._written = time.monotonic()


def _exchange(table: _Table, order: IntArray, dimensions: list[int | None]) -> None:
    """Every rank's rows to every rank, some thousand at a time."""
    rank, world_size = distributed.rank(), distributed.world_size()
    for known in dimensions:  # a rank without inputs learns D here; ranks that disagree stop
        if known is not None:
            table.open(known)
    shares = [order[number::world_size] for number in range(world_size)]
    for start in range(0, len(shares[0]), GATHERED_ROWS):
        rows = slice(start, start + GATHERED_ROWS)
        for share, part in zip(shares, distributed.all_gather_object(table.rows[shares[rank][rows]]), strict=True):
            table.rows[share[rows]] = part


def _encode(
    model: Encoder, inputs: DistinctInputs, numbers: IntArray, batch_size: int
) -> Iterator[tuple[IntArray, Embeddings]]:
    """The vectors of some inputs, opened a chunk at a time, and checked."""
    done = 0
    for chunk in _chunks(inputs, numbers, batch_size * BATCHES_PER_CHUNK):
        chosen = numbers[done : done + len(chunk)]
        try:
            vectors = as_array(model.encode(chunk, batch_size=batch_size, show_progress_bar=False))
        except ValueError as error:
            raise _named(error, model, inputs, chosen, chunk) from error
        if vectors.ndim != 2 or len(vectors) != len(chunk):
            raise ValueError(
                f"The encoder returned the shape {vectors.shape} for {len(chunk)} inputs: one vector each is needed."
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            broken = int(chosen[int(np.argmin(finite))])
            raise ValueError(
                f"The vector of {inputs.samples[broken]} ({inputs.place(broken)}) is not finite: check the model."
            )
        yield chosen, vectors
        done += len(chunk)


def _named(
    error: ValueError, model: Encoder, inputs: DistinctInputs, numbers: IntArray, chunk: list[str | dict[str, Any]]
) -> ValueError:
    """The error of the first input that the encoder refuses by itself, with subset and row; else `error`."""
    for number, entry in zip(numbers.tolist(), chunk, strict=True):
        try:
            model.encode([entry], batch_size=1, show_progress_bar=False)
        except ValueError as own:
            return BenchmarkError(f"{inputs.place(number)}: {str(own).removeprefix('input 0: ')}")
    return error


def _chunks(inputs: DistinctInputs, numbers: IntArray, size: int) -> Iterator[list[str | dict[str, Any]]]:
    """Open inputs one after another, and hand them on before they are too many or too large."""
    chunk: list[str | dict[str, Any]] = []
    pixels = 0
    for number in numbers:
        chunk.append(inputs.load(int(number)))
        pixels += pixels_of(chunk[-1])
        if len(chunk) == size or pixels >= CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def pixels_of(encodable: str | dict[str, Any]) -> int:
    """How many pixels its pictures and frames have, all opened."""
    if isinstance(encodable, str):
        return 0
    images = encodable.get("image", [])
    pictures = [*(images if isinstance(images, list) else [images]), *encodable.get("video", [])]
    return sum(picture.width * picture.height for picture in pictures)


def as_array(vectors: Any) -> Embeddings:
    """A float32 array from an array, a tensor of any device and precision, or a list of either."""
    if isinstance(vectors, list):
        return np.stack([as_array(vector) for vector in vectors])
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().float().cpu().numpy()
    return np.asarray(vectors, dtype=np.float32)
