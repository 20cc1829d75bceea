"""The members of tar archives, thousands at a time: their names, and where their bytes lie.

`tarfile` makes an object of each member, which costs more than all else that is done with it. Headers of plain
members, with long names in GNU's or POSIX's form, are read here; from the first that is anything else on, `tarfile`
reads.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from .tar_members import Members, by_tarfile, names_as_text

_FIRST_BATCH, _BATCH = 256, 8192  # headers that are looked at together: at first, for some want only the first rows
_BLOCK = tarfile.BLOCKSIZE
_NAME, _SIZE, _SUM, _PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), slice(345, 500)
_KIND = 156
_FILE = ord("0")
_EMPTY = frozenset(b"123456")  # links, devices, folders: no bytes follow the header
_POSIX_NAME, _GNU_NAME = ord("x"), ord("L")  # what follows is of the next header
_LONGEST = 1 << 20  # bytes of such; more is left to `tarfile`
_NEAR, _FAR = 1 << 12, 1 << 16  # bytes that are read at a time: where members are large, where they are small


@dataclass
class _Headers:
    """Headers that stand one behind the other, and where their members begin, as they say."""

    blocks: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    names: dict[int, bytes] = field(default_factory=dict)  # those that do not stand in the header itself
    behind: int = 0  # where the next member begins
    ended: bool = False  # whether that is the archive's end
    plain: bool = True  # whether that is one that can be read here

    def add(self, block: bytes, first: int, size: int) -> None:
        """A header behind the others."""
        self.blocks.append(block)
        self.starts.append(self.behind)
        self.firsts.append(first)
        self.sizes.append(size)


def members_of(file: str, start: int = 0) -> Iterator[Members]:
    """The members of an archive; only headers are read.

    Args:
        file: The archive.
        start: Where to begin: where a member does.

    Raises:
        ValueError: It is broken or compressed, or a member is stored without its holes or has no name in UTF-8; the
            message names file and member.
    """
    size = os.path.getsize(file)
    last = "its first member"
    with open(file, "rb", buffering=0) as handle:
        ahead, most = _Ahead(handle.fileno()), _FIRST_BATCH
        while True:
            found = _walk(ahead, start, size, most)
            most = min(2 * most, _BATCH)
            count = _count_of_right(found)
            start = found.behind if count == len(found.blocks) else found.starts[count]
            members = _members(file, found, count)
            if len(members):
                last = repr(members.names[-1].as_py())
                yield members
            if count < len(found.blocks) or not found.plain:
                break
            if found.ended:
                return
    yield from by_tarfile(file, start, size, last)


class _Ahead:
    """A file that is read in order, with gaps: a little more than is asked for while the gaps are small."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held, self._start, self._length = b"", 0, _NEAR

    def __call__(self, first: int, size: int) -> bytes:
        place = first - self._start
        if place < 0 or place + size > len(self._held):
            gap = place - len(self._held)
            self._length = min(2 * self._length, _FAR) if gap < self._length else _NEAR
            self._held, self._start, place = os.pread(self._descriptor, max(size, self._length), first), first, 0
        return self._held[place : place + size]


def _walk(ahead: _Ahead, start: int, size: int, most: int) -> _Headers:
    """So many headers from one on, whose sums are not looked at yet."""
    found = _Headers(behind=start)
    position, name = start, None
    while len(found.blocks) < most:
        block = ahead(position, _BLOCK)
        if block.count(0) == len(block):  # the end, with or without its mark
            found.ended, found.plain = True, name is None
            break
        try:
            length = int(block[_SIZE].partition(b"\0")[0], 8)
            kind = block[_KIND]
        except (ValueError, IndexError):  # a size of 8 GiB or more, the rest of an archive that was cut, or rubbish
            found.plain = False
            break
        first = position + _BLOCK
        length = 0 if kind in _EMPTY else length
        position = first + length + -length % _BLOCK
        whole = length >= 0 and position <= size
        if kind in (_POSIX_NAME, _GNU_NAME) and name is None and whole and length <= _LONGEST:
            name = _long_name(ahead(first, length), kind)
            found.plain = name is not None
        else:
            found.plain = whole and (kind == _FILE or kind in _EMPTY)
        if not found.plain:
            break
        found.add(block, first, length)
        if kind == _FILE or kind in _EMPTY:
            if name:
                found.names[len(found.blocks) - 1] = name
            found.behind, name = position, None
    return found


def _long_name(content: bytes, kind: int) -> bytes | None:
    """The name that the next member has, empty if this does not say; None: something is said that is not read here."""
    if kind == _GNU_NAME:
        return content.partition(b"\0")[0] or None
    name = b""
    while content:
        length = content.partition(b" ")[0]
        if not length.isdigit() or not len(length) + 1 < int(length) <= len(content):
            return None
        key, equals, value = content[len(length) + 1 : int(length)].partition(b"=")
        if not equals or not value.endswith(b"\n") or key in (b"size", b"hdrcharset") or key.startswith(b"GNU.sparse"):
            return None
        if key == b"path":
            name = value[:-1].rstrip(b"/")
        content = content[int(length) :]
    return name


def _count_of_right(found: _Headers) -> int:
    """How many of the headers are so before the first whose sum is wrong."""
    blocks = np.frombuffer(b"".join(found.blocks), np.uint8).reshape(-1, _BLOCK)
    said = np.zeros(len(blocks), np.int64)
    for digits in blocks[:, _SUM].T.astype(np.int64):
        said = np.where((digits >= ord("0")) & (digits <= ord("7")), 8 * said + digits - ord("0"), said)
    spaces = 8 * ord(" ")  # instead of the sum itself
    wrong = blocks.sum(axis=1, dtype=np.int64) - blocks[:, _SUM].sum(axis=1, dtype=np.int64) + spaces != said
    return int(wrong.argmax()) if wrong.any() else len(blocks)


def _members(file: str, found: _Headers, count: int) -> Members:
    blocks = np.frombuffer(b"".join(found.blocks[:count]), np.uint8).reshape(-1, _BLOCK)
    files = np.flatnonzero(blocks[:, _KIND] == _FILE)
    names = found.names.copy()
    for row in files[blocks[files, _PREFIX.start] != 0].tolist():
        block = found.blocks[row]
        names.setdefault(row, b"/".join(block[part].partition(b"\0")[0] for part in (_PREFIX, _NAME)))
    short = blocks[files, _NAME]
    held = np.logical_and.accumulate(short != 0, axis=1)
    offsets = np.concatenate([[0], np.cumsum(held.sum(axis=1))]).astype(np.int64)
    made = pa.Array.from_buffers(
        pa.large_binary(), len(files), [None, pa.py_buffer(offsets), pa.py_buffer(short[held])]
    )
    if names:
        listed = [names.get(row, own) for row, own in zip(files.tolist(), made.to_pylist(), strict=True)]
        made = pa.array(listed, pa.large_binary())
    starts, firsts, sizes = (
        np.array(values[:count], np.int64)[files] for values in (found.starts, found.firsts, found.sizes)
    )
    return Members(names_as_text(file, made), starts, firsts, sizes)
