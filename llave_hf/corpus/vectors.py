"""From rows to vectors: pieces of a part whose media fit into memory, read ahead while the model runs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from llave_hf.data.described.sides import SideTemplates
from llave_hf.encoding.prefetch import prefetch

from .inputs import inputs_of
from .model import CorpusModel
from .parts import Part
from .reading import CHUNK_BYTES, Chunk, Reader

_AHEAD = 2  # pieces


@dataclass
class Piece:
    """Neighbouring rows.

    Attributes:
        table: Their columns.
        entries: What `encode` takes, by place.
        errors: What is wrong with the others, by place.
        vectors: One `(D,)` a row, None where there is none.
    """

    table: pa.Table
    entries: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    vectors: list[np.ndarray | None] = field(default_factory=list)


class VectorMaker:
    """Makes the vectors of parts.

    Args:
        model: That makes them.
        reader: Of the corpus.
        side: What of a row is embedded.
        media_root: See [`inputs_of`].
        is_plain: Whether pictures and videos without a text get the model's instruction.
    """

    def __init__(
        self, model: CorpusModel, reader: Reader, side: SideTemplates, media_root: str | None, is_plain: bool
    ) -> None:
        self._model, self._reader, self._side, self._media_root = model, reader, side, media_root
        self._prompts = model.document_prompts() if is_plain else None

    def all(self, part: Part) -> Iterator[Piece]:
        """A part's rows with their vectors.

        Raises:
            ValueError: The file cannot be read.
        """
        pieces = (piece for chunk in self._reader.chunks(part) for piece in self.pieces(chunk))
        ahead = prefetch(lambda _: next(pieces, None), itertools.repeat(None), num_workers=1, window=_AHEAD)
        with contextlib.closing(ahead):
            for piece in ahead:
                if piece is None:
                    return
                yield self._with_vectors(piece)

    def first(self, part: Part, rows: int) -> Iterator[Piece]:
        """The same of the first rows of a part."""
        for chunk in self._reader.chunks(part):
            errors = {place: error for place, error in chunk.errors.items() if place < rows}
            few = replace(chunk, table=chunk.table.slice(0, rows), errors=errors)
            rows -= len(few)
            yield from map(self._with_vectors, self.pieces(few))
            if rows == 0:
                return

    def pieces(self, chunk: Chunk) -> Iterator[Piece]:
        """The rows of a chunk, without vectors."""
        entries: dict[int, Any] = {}
        errors: dict[int, str] = {}
        first = held = 0
        for place, entry, error, size in inputs_of(chunk, self._side, self._media_root, self._prompts):
            if error is None:
                entries[place - first] = entry
            else:
                errors[place - first] = error
            held += size
            if held >= CHUNK_BYTES or place == len(chunk) - 1:
                yield Piece(chunk.table.slice(first, place + 1 - first), entries, errors)
                first, held, entries, errors = place + 1, 0, {}, {}

    def _with_vectors(self, piece: Piece) -> Piece:
        piece.vectors, reasons = self._model.vectors_at(piece.entries, len(piece.table))
        piece.errors |= reasons
        piece.entries = {}
        return piece
