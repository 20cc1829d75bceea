"""The nearest documents of each query: exact, in tiles of bounded memory, or approximate through faiss."""

from __future__ import annotations

import numpy as np
import torch

INDEXES = ("exact", "faiss")
QUERY_TILE = 1024
DOCUMENT_TILE = 16384
_HNSW_LINKS = 32
_HNSW_EFFORT = 200


def nearest(
    queries: np.ndarray, documents: np.ndarray, count: int, index: str = "exact"
) -> tuple[np.ndarray, np.ndarray]:
    """The documents with the largest inner products, best first; of equal ones the one with the lower number.

    Args:
        queries: `(Q, D)` float32.
        documents: `(N, D)` float32.
        count: How many; at most N are given.
        index: `"exact"`, or `"faiss"` for an approximate index (HNSW) over millions of documents.

    Returns:
        Inner products `(Q, k)` and numbers of documents `(Q, k)`; -1 where faiss found fewer.

    Raises:
        ValueError: `index` is another, or faiss is not installed.
    """
    if index not in INDEXES:
        raise ValueError(f"index is {index!r}; choose one of {', '.join(map(repr, INDEXES))}.")
    count = min(count, len(documents))
    if index == "faiss":
        return _approximate(queries, documents, count)
    scores = np.empty((len(queries), count), dtype=np.float32)
    numbers = np.empty((len(queries), count), dtype=np.int64)
    for start in range(0, len(queries), QUERY_TILE):
        rows = slice(start, start + QUERY_TILE)
        scores[rows], numbers[rows] = _exact(torch.from_numpy(queries[rows]), documents, count)
    return scores, numbers


def _exact(queries: torch.Tensor, documents: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    best = torch.empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(documents), DOCUMENT_TILE):
        tile = torch.from_numpy(documents[start : start + DOCUMENT_TILE])
        products = queries @ tile.T
        numbers = torch.arange(start, start + len(tile)).expand_as(products)
        best, places = _merged(torch.cat((best, products), 1), torch.cat((places, numbers), 1), count)
    return best.numpy(), places.numpy()


def _merged(scores: torch.Tensor, numbers: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` by score, then by number."""
    bits = (scores + 0.0).view(torch.int32)  # without -0.0, which is no less than 0.0
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the numbers
    # Both in one integer, since topk promises no order among equal ones.
    order = ((ascending.long() << 32) - numbers).topk(min(count, scores.shape[1]), dim=1).indices
    return scores.gather(1, order), numbers.gather(1, order)


def _approximate(queries: np.ndarray, documents: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import faiss
    except ImportError as error:
        raise ValueError("index is 'faiss', which is not installed; pip install faiss-cpu, or use 'exact'.") from error
    made = faiss.IndexHNSWFlat(documents.shape[1], _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    made.hnsw.efConstruction = _HNSW_EFFORT
    made.hnsw.efSearch = max(_HNSW_EFFORT, count)
    made.add(documents)
    return made.search(queries, count)
