"""Encodes every distinct input once and ranks each query's answer among its candidates.

Scores are cosines in float32. Only exactly equal scores are ties, so equal vectors must get bitwise equal scores; but
a matrix product may round the same row differently in different places. Hence each distinct *vector* is scored once a
query, and its score is shared by all inputs that have it: an encoder that maps everything to one vector ties
everything, whatever the BLAS.

Shapes: M distinct inputs, Q queries, D dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from llave_hf import distributed

from .inputs import DistinctInputs, TaskInputs
from .metrics import AnswerRanks, IntArray, rank_answers

Embeddings = NDArray[np.float32]

BATCHES_PER_CHUNK = 8
CHUNK_PIXELS = 1 << 27  # 400 MB of opened pictures at most (a single larger input apart)
QUERIES_PER_BLOCK = 32


class Encoder(Protocol):
    """Anything with sentence-transformers' `encode`."""

    def encode(self, inputs: list[Any], /, *, batch_size: int, show_progress_bar: bool) -> Any:
        """Return one vector an input, (n, D), for texts and dicts of `text`, `image` and `video`."""


def encode_inputs(model: Encoder, inputs: DistinctInputs, *, batch_size: int, show_progress: bool) -> Embeddings:
    """Encode all inputs, each once; with several ranks each encodes its share, and all get everything.

    Returns:
        (M, D) float32, in the order of `inputs`.

    Raises:
        BenchmarkError: a picture or video is broken.
        ValueError: the encoder returns something else than one finite vector an input.
        RuntimeError: another rank failed; the message is that rank's.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    order = inputs.encoding_order()
    share = order[rank::world_size]
    with tqdm(total=len(share), desc="Encoding", unit="input", disable=not show_progress or rank != 0) as bar:
        try:
            own: Embeddings | Exception = _encode_share(model, inputs, share, batch_size, bar)
        except Exception as error:  # told to the other ranks, which would wait for ever, and raised below
            own = error
    if world_size == 1:
        parts: Sequence[Any] = [own]
    else:
        parts = distributed.all_gather_object(own if isinstance(own, np.ndarray) else f"{type(own).__name__}: {own}")
    if isinstance(own, Exception):
        raise own
    for number, part in enumerate(parts):
        if isinstance(part, str):
            raise RuntimeError(f"Evaluation stopped because rank {number} failed: {part}")
    dimensions = next(part.shape[1] for part in parts if len(part))
    embeddings = np.empty((len(inputs), dimensions), dtype=np.float32)
    for number, part in enumerate(parts):
        if len(part):
            embeddings[order[number::world_size]] = part
    return embeddings


def rank_task(task: TaskInputs, embeddings: Embeddings, vector_ids: IntArray) -> AnswerRanks:
    """Rank every answer of a subset.

    Args:
        embeddings: (M, D), L2-normalised.
        vector_ids: (M,) from :func:`normalise`.
    """
    everything = np.unique(np.concatenate(task.pools)) if task.task.pool == "global" else None
    blocks = []
    for start in range(0, len(task.pools), QUERIES_PER_BLOCK):
        block = slice(start, start + QUERIES_PER_BLOCK)
        pools = task.pools[block]
        if everything is not None:
            pools = [np.concatenate([pool[:1], everything[everything != pool[0]]]) for pool in pools]
        blocks.append(_rank_block(embeddings[task.queries[block]], pools, embeddings, vector_ids))
    return AnswerRanks(
        above=np.concatenate([block.above for block in blocks]),
        tied=np.concatenate([block.tied for block in blocks]),
        candidates=np.concatenate([block.candidates for block in blocks]),
    )


def normalise(embeddings: Embeddings) -> IntArray:
    """L2-normalise the rows in place (zero rows stay) and tell which rows are bitwise equal.

    Returns:
        (M,) for each row the first row with the same vector.
    """
    embeddings += 0.0  # -0.0 becomes 0.0: equal numbers, equal bytes
    first: dict[bytes, int] = {}
    vector_ids = np.empty(len(embeddings), dtype=np.int64)
    for number, row in enumerate(embeddings):
        vector_ids[number] = first.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), number)
        norm = np.linalg.norm(row)
        if norm > 0:
            row /= norm
    return vector_ids


def _rank_block(
    queries: Embeddings, pools: list[IntArray], embeddings: Embeddings, vector_ids: IntArray
) -> AnswerRanks:
    """Rank the answers of a few queries: queries (q, D), pools q arrays of any lengths with the answer first."""
    lengths = np.array([len(pool) for pool in pools])
    present = np.arange(lengths.max()) < lengths[:, None]  # (q, longest pool)
    vectors, columns = np.unique(vector_ids[np.concatenate(pools)], return_inverse=True)
    scores = queries @ embeddings[vectors].T  # (q, distinct vectors)
    rows = np.repeat(np.arange(len(pools)), lengths)
    candidate_scores = np.zeros(present.shape, dtype=np.float32)
    candidate_scores[present] = scores[rows, columns.reshape(-1)]
    return rank_answers(candidate_scores, present=present)


def _encode_share(model: Encoder, inputs: DistinctInputs, share: IntArray, batch_size: int, bar: Any) -> Embeddings:
    """(len(share), D) the vectors of some inputs, opened a chunk at a time."""
    embeddings: Embeddings = np.empty((0, 0), dtype=np.float32)
    done = 0
    for chunk in _chunks(inputs, share, batch_size * BATCHES_PER_CHUNK):
        vectors = _as_array(model.encode(chunk, batch_size=batch_size, show_progress_bar=False))
        numbers = share[done : done + len(chunk)]
        if vectors.ndim != 2 or len(vectors) != len(chunk) or (done and vectors.shape[1] != embeddings.shape[1]):
            raise ValueError(
                f"The encoder returned the shape {vectors.shape} for {len(chunk)} inputs: one vector each is needed."
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            broken = int(numbers[int(np.argmin(finite))])
            raise ValueError(
                f"The vector of {inputs.samples[broken]} ({inputs.place(broken)}) is not finite: check the model."
            )
        if not done:
            embeddings = np.empty((len(share), vectors.shape[1]), dtype=np.float32)
        embeddings[done : done + len(chunk)] = vectors
        done += len(chunk)
        bar.update(len(chunk))
    return embeddings


def _chunks(inputs: DistinctInputs, share: IntArray, size: int) -> Iterator[list[str | dict[str, Any]]]:
    """Open inputs one after another, and hand them on before they are too many or too large."""
    chunk: list[str | dict[str, Any]] = []
    pixels = 0
    for number in share:
        chunk.append(inputs.load(int(number)))
        pixels += _pixels(chunk[-1])
        if len(chunk) == size or pixels >= CHUNK_PIXELS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _pixels(encodable: str | dict[str, Any]) -> int:
    if isinstance(encodable, str):
        return 0
    images = encodable.get("image", [])
    pictures = [*(images if isinstance(images, list) else [images]), *encodable.get("video", [])]
    return sum(picture.width * picture.height for picture in pictures)


def _as_array(vectors: Any) -> Embeddings:
    """A float32 array from an array, a tensor of any device and precision, or a list of either."""
    if isinstance(vectors, list):
        return np.stack([_as_array(vector) for vector in vectors])
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().float().cpu().numpy()
    return np.asarray(vectors, dtype=np.float32)
