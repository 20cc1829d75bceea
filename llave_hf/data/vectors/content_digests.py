"""Keys of samples by what they hold: the text, and the bytes of its pictures and video, not where these lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llave_hf.data.media import locate
from llave_hf.data.samples import Sample
from llave_hf.data.stored.pictures import StoredPicture
from llave_hf.encoding.content_keys import file_digest
from llave_hf.model.media_llave import frame_files

from .store import Keys


class ContentDigests:
    """Gives samples 128-bit keys; each file is read once.

    Args:
        reading: How media are opened, where that changes a vector (the number of a video's frames).
    """

    def __init__(self, reading: str = "") -> None:
        self._reading = reading.encode()
        self._files: dict[Path, bytes] = {}

    def keys(self, samples: Iterable[Sample]) -> Keys:
        """`(n, 2)` uint64.

        Raises:
            MediaError: A file is missing or may not be read.
        """
        digests = b"".join(map(self._digest, samples))
        return np.frombuffer(digests, dtype="<u8").reshape(-1, 2).astype(np.uint64)

    def _digest(self, sample: Sample) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        text = sample.text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%s" % (len(text), text))
        for path in sample.images:
            if isinstance(path, StoredPicture):  # as a file of these bytes
                digest.update(b"upright image" + bytes.fromhex(path.content()))
            else:
                digest.update(b"upright image" + self._media(path, sample.media_root))
        if sample.video is not None:
            digest.update(b"played video" + self._reading + self._media(sample.video, sample.media_root))
        return digest.digest()

    def _media(self, path: str, media_root: str | None) -> bytes:
        resolved = locate(path, media_root)
        if not isinstance(resolved, Path):  # a data URI
            return hashlib.blake2b(resolved.encode(), digest_size=16).digest()
        if resolved not in self._files:
            self._files[resolved] = _folder_digest(resolved) if resolved.is_dir() else file_digest(resolved)
        return self._files[resolved]


def _folder_digest(folder: Path) -> bytes:
    """Of a video's frames: their names say their order."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(frame_files(folder)):
        name = file.name.encode("utf-8", "surrogateescape")
        digest.update(b"%d:%s" % (len(name), name) + file_digest(file))
    return digest.digest()
