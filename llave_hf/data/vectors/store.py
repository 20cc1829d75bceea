"""Vectors on disk, found again by the content they stand for and the model that made them (safetensors, no pickle).

A folder holds pieces of some thousand vectors, each written whole or not at all, so that several processes can add to
it and a stopped run loses no finished piece. Pieces of several models lie side by side.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llave_hf.errors import UserError

Keys = NDArray[np.uint64]
Vectors = NDArray[np.float32]


class VectorStore:
    """The vectors that a folder holds for one model; what is added later, by anybody, is found after `refresh`.

    Args:
        folder: Where the pieces lie; it is made by the first `add`.
        identity: Everything besides an input's content that changes its vector.

    Raises:
        UserError: A piece cannot be read.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        self._prefix = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._pieces: list[Path] = []
        self._starts = np.zeros(1, dtype=np.int64)
        self._order = np.empty(0, dtype=np.int64)
        self._keys: Keys = np.empty((0, 2), dtype=np.uint64)
        self.refresh()

    def __len__(self) -> int:
        return len(self._keys)

    def refresh(self) -> None:
        """Looks for pieces that were added since; places of vectors stay as they were."""
        known = set(self._pieces)
        new = sorted(path for path in self.folder.glob(f"{self._prefix}-*.safetensors") if path not in known)
        if not new:
            return
        parts = [_tensor(piece, "keys") for piece in new]
        self._pieces += new
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum([len(part) for part in parts])])
        order = np.concatenate([self._order, np.arange(len(self._order), self._starts[-1])])
        keys = np.concatenate([self._keys, *parts])
        ascending = np.argsort(keys[:, 0], kind="stable")
        self._keys, self._order = keys[ascending], order[ascending]

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """`(n, 2)` keys -> `(n,)` where their vectors lie, for `read`; -1: the folder has none.

        Two contents that share the first half of their key by chance are told apart by the second; only one of them is
        found, the other is encoded again.
        """
        if not len(self):
            return np.full(len(keys), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._keys[:, 0], keys[:, 0]), len(self) - 1)
        return np.where((self._keys[places] == keys).all(axis=1), self._order[places], -1)

    def read(self, places: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """The vectors at some places, one piece in memory at a time.

        Yields:
            Positions in `places`, and their vectors `(positions, D)`.
        """
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], self._starts)
        for number, piece in enumerate(self._pieces):
            positions = order[bounds[number] : bounds[number + 1]]
            if len(positions):
                yield positions, _tensor(piece, "vectors")[places[positions] - self._starts[number]]

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Writes a piece.

        Args:
            keys: `(n, 2)`, from [`ContentDigests.keys`].
            vectors: `(n, D)` float32.

        Raises:
            UserError: It cannot be written.
        """
        name = f"{self._prefix}-{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}"
        unfinished = self.folder / f"{name}.{os.getpid()}.tmp"
        tensors: dict[str, NDArray] = {"keys": np.ascontiguousarray(keys), "vectors": np.ascontiguousarray(vectors)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, unfinished, metadata={"identity": self.identity})
            unfinished.replace(self.folder / f"{name}.safetensors")
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"vectors cannot be kept in {self.folder}: {error}. Mend the cause (a full disk?)."
            ) from error


def _tensor(piece: Path, name: str) -> NDArray:
    try:
        with safe_open(piece, framework="numpy") as tensors:
            return tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{piece} cannot be read as cached vectors: {error}. Delete the file.") from error
