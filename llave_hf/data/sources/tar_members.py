"""The members of a tar archive: regular files. Here `tarfile` reads them, which takes all there are and is slow."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_BATCH = 4096


@dataclass(frozen=True)
class Members:
    """Regular files of an archive, in its order.

    Attributes:
        names: large_string `(n,)`.
        starts: Where their headers begin, int64 `(n,)` in bytes.
        firsts: Where their contents begin.
        sizes: How long these are.
    """

    names: pa.Array
    starts: np.ndarray
    firsts: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)


def names_as_text(file: str, names: pa.Array) -> pa.Array:
    """Names of members, large_binary, as large_string.

    Raises:
        ValueError: One is not in UTF-8.
    """
    try:
        return names.cast(pa.large_string())
    except pa.ArrowInvalid as error:
        for name in names.to_pylist():
            try:
                name.decode()
            except UnicodeDecodeError:
                raise ValueError(
                    f"{file}: the name of the member {name!r} is not in UTF-8; write the archive anew, with names in "
                    "UTF-8."
                ) from error
        raise


def by_tarfile(file: str, start: int, size: int, last: str) -> Iterator[Members]:
    """The members of an archive as `tarfile` reads them.

    Args:
        file: The archive.
        start: Where to begin: where a member does.
        size: Of the archive in bytes.
        last: What is said of the place before `start`.

    Raises:
        ValueError: It is broken or compressed, or a member is stored without its holes or has no name in UTF-8.
    """
    read: list[tuple[bytes, int, int, int]] = []
    for entry in _entries(file, start, size, last):
        read.append((entry.name.encode("utf-8", "surrogateescape"), entry.offset, entry.offset_data, entry.size))
        if len(read) == _BATCH:
            yield _listed(file, read)
            read = []
    if read:
        yield _listed(file, read)


def _listed(file: str, read: list[tuple[bytes, int, int, int]]) -> Members:
    names, *places = zip(*read, strict=True)
    return Members(
        names_as_text(file, pa.array(names, pa.large_binary())), *(np.array(part, np.int64) for part in places)
    )


def _entries(file: str, start: int, size: int, last: str) -> Iterator[tarfile.TarInfo]:
    with open(file, "rb") as handle:
        handle.seek(start)
        try:
            # The handle is closed, so is what reads from it.
            archive = tarfile.open(fileobj=handle, mode="r:", encoding="utf-8") if size else None  # noqa: SIM115
        except tarfile.TarError as error:
            if start:
                raise ValueError(f"{file} is broken behind {last} ({error}); copy the archive anew.") from error
            raise ValueError(f"{file} is no tar archive ({error}); unpack it if it is compressed.") from error
        try:
            while archive is not None and (entry := archive.next()) is not None:
                last = f"{entry.name!r}"
                archive.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                if entry.issparse():
                    raise ValueError(
                        f"{file}: the member {last} is stored without its holes; write the archive anew, without "
                        "--sparse."
                    )
                if entry.offset_data + entry.size > size:
                    raise ValueError(f"{file} ends inside the member {last}; copy the archive anew.")
                if entry.isreg():
                    yield entry
        except tarfile.TarError as error:
            raise ValueError(f"{file} is broken behind {last} ({error}); copy the archive anew.") from error
        if archive is not None:
            handle.seek(archive.offset)
            if any(handle.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
                raise ValueError(f"{file} is broken behind {last}; copy the archive anew.")
