"""Pictures that lie inside a file of rows: named by their place, read when they are needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import pyarrow as pa

from llave_hf.model.media_llave import MediaError

from .reading import read_range, read_value

MARK = "\0"  # begins a place that is written as text; no path that can be opened holds it


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """Where the bytes of a picture stand. Two of them are equal where they name one place.

    Attributes:
        file: A parquet or Arrow file, here or on the Hub, or an archive.
        row: Number of the row in the file, from 0.
        column: Name of the column; in an archive, what follows the sample's key in the name of its member.
        position: Which of the row's pictures, where the column holds lists.
        span: First byte and number of bytes, where the file holds them as they are (archives).
        digest: Of the bytes, as hexadecimal digits, where they have been read already.
    """

    file: str
    row: int
    column: str
    position: int = 0
    span: tuple[int, int] | None = None
    digest: str = field(default="", compare=False)

    def __str__(self) -> str:
        place = f"{self.file}, row {self.row}, column {self.column!r}"
        return f"{place}, picture {self.position}" if self.position else place

    def read(self) -> bytes:
        """The picture's bytes, as they are stored.

        Raises:
            MediaError: The file cannot be read, or holds no bytes there.
        """
        try:
            content: bytes | None
            if self.span is not None:
                content = read_range(self.file, *self.span)
            else:
                content = read_value(self.file, self.row, self.column, self.position)
        except (pa.ArrowException, OSError, LookupError, TypeError) as error:
            raise MediaError(f"{self} cannot be read ({error}); has the file changed?") from error
        if not content:
            raise MediaError(f"{self} holds no bytes; fill the picture in, or drop the row.")
        return content

    def content(self) -> str:
        """A digest of the bytes; they are read where it is not known."""
        return self.digest or content_digest(self.read())

    def with_digest(self) -> StoredPicture:
        """The same place, with the digest of its bytes, so that they need not be read for it again."""
        return replace(self, digest=self.content())

    def encoded(self) -> str:
        """The place as text, for columns of paths in Arrow; see [`decoded`]."""
        first, size = self.span or ("", "")
        return MARK.join(map(str, ("", self.file, self.row, self.column, self.position, first, size, self.digest)))


def content_digest(content: bytes | pa.Buffer) -> str:
    """What [`StoredPicture.digest`] says of bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def decoded(path: str) -> str | StoredPicture:
    """An entry of a column of paths: itself, or the place that it is the text of."""
    if not path.startswith(MARK):
        return path
    _, file, row, column, position, first, size, digest = path.split(MARK)
    span = (int(first), int(size)) if size else None
    return StoredPicture(file, int(row), column, int(position), span, digest)
