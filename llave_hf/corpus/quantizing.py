"""Vectors as they are stored: shortened to fewer dimensions, in fewer bits, in a column of lists of one length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from llave_hf.errors import UserError

PRECISIONS = ("float32", "float16", "int8", "ubinary")
_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "ubinary": pa.uint8()}
_LEAST_RANGE = 1e-6  # of a dimension that is the same in all vectors


def check_dimensions(dimensions: int | None, precision: str, whole: int) -> int:
    """How many dimensions are kept of `whole`.

    Raises:
        UserError: There are not so many, or they do not fill whole bytes.
    """
    kept = whole if dimensions is None else dimensions
    if not 1 <= kept <= whole:
        raise UserError(f"the model's vectors have {whole} dimensions; keep 1 to {whole} of them, not {kept}.")
    if precision == "ubinary" and kept % 8:
        raise UserError(f"{kept} dimensions do not fill whole bytes, as ubinary needs: keep a multiple of 8.")
    return kept


def shortened(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first dimensions of vectors `(n, D)`, L2-normalised again; all of them are left as they are."""
    if dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions].astype(np.float32)
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def ranges_of(vectors: np.ndarray) -> np.ndarray:
    """The smallest and the largest value of each dimension `(2, D)`, for int8.

    Raises:
        UserError: There are no vectors.
    """
    if not len(vectors):
        raise UserError("no row can be embedded, so that there are no ranges for int8; choose another --precision.")
    low, high = vectors.min(0), vectors.max(0)
    return np.stack([low, np.maximum(high, low + _LEAST_RANGE)])


def stored(vectors: np.ndarray, precision: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """Vectors `(n, D)` in a precision: int8 as sentence-transformers quantizes, ubinary 8 signs a byte `(n, D / 8)`.

    Args:
        vectors: float32.
        precision: One of `PRECISIONS`.
        ranges: For int8, of each dimension `(2, D)`; what lies outside becomes the nearer end.
    """
    if precision in ("float32", "float16"):
        return vectors.astype(precision)
    from sentence_transformers.util import quantize_embeddings

    if precision == "int8":
        assert ranges is not None
        vectors = np.clip(vectors, ranges[0], ranges[1])
    return np.asarray(quantize_embeddings(vectors.astype(np.float32), precision=precision, ranges=ranges))


def vector_type(dimensions: int, precision: str, *, fixed: bool = True) -> pa.DataType:
    """The type of the column of vectors."""
    size = dimensions // 8 if precision == "ubinary" else dimensions
    return pa.list_(_TYPES[precision], size if fixed else -1)


def vector_column(
    vectors: Sequence[np.ndarray | None], dimensions: int, precision: str, ranges: np.ndarray | None = None
) -> pa.Array:
    """A column of whole vectors `(D,)` as they are stored, null where there is none."""
    kind = vector_type(dimensions, precision)
    made = [vector for vector in vectors if vector is not None]
    values = np.zeros((len(vectors), kind.list_size), dtype=kind.value_type.to_pandas_dtype())
    missing = np.array([vector is None for vector in vectors], dtype=bool)
    if made:
        values[~missing] = stored(shortened(np.stack(made), dimensions), precision, ranges)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1), kind.value_type), type=kind, mask=pa.array(missing)
    )
