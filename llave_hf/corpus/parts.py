"""How a corpus is cut: parts of neighbouring rows, each of which becomes one file of vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow.parquet as pq

from llave_hf.data.sources.files import parquet_errors
from llave_hf.data.stored.groups import open_parquet
from llave_hf.data.streaming.shards import Block, line_blocks, sample_blocks
from llave_hf.errors import UserError

from .sources import MEDIA, SAVED, Source, listing_stamp, rows_of_whole_file

ROWS = 10_000  # of a part, by default


@dataclass(frozen=True)
class Part:
    """Neighbouring rows of one file.

    Attributes:
        name: Of the file of vectors.
        file: The name of the file of rows.
        stamp: What changes with it.
        first_row: The first row's number in it, from 0.
        rows: How many there are.
        start, first_line: See [`Block`].
    """

    name: str
    file: str
    stamp: str
    first_row: int
    rows: int
    start: int = 0
    first_line: int = 1

    @property
    def block(self) -> Block:
        return Block(self.start, self.first_row, self.rows, self.first_line)


def parts_of(source: Source, rows: int, names: Collection[str] | None = None) -> list[Part]:
    """The parts of files of a source; they are gone through for it, but not decoded.

    Args:
        source: The corpus.
        names: The files; None: all.
        rows: How many a part has: exactly so many but the last of a file. Parquet is cut where its row groups end,
            and inside a group only where that is longer.

    Raises:
        ValueError: A file cannot be read.
    """
    stems = _stems(list(source.files))
    parts: list[Part] = []
    for name, path in source.files.items():
        if names is not None and name not in names:
            continue
        blocks = list(_blocks(source, path, rows))
        for number, block in enumerate(blocks):
            own = stems[name] if len(blocks) == 1 else f"{stems[name]}-{number:05d}"
            parts.append(_part(source, f"{own}.parquet", name, block))
    twice = [name for name, count in Counter(part.name for part in parts).items() if count > 1]
    if twice:
        raise UserError(f"two files of vectors would be called {twice[0]}; rename one of the files of rows.")
    return parts


def first_part(source: Source, rows: int) -> Part | None:
    """The first of [`parts_of`], but for its name; of its file no more is gone through than it needs."""
    for name, path in source.files.items():
        for block in _blocks(source, path, rows):
            return _part(source, "", name, block)
    return None


def _part(source: Source, name: str, file: str, block: Block) -> Part:
    if source.kind == MEDIA:
        stamp = listing_stamp(source.listing[block.first_row : block.first_row + block.rows])
    else:
        stamp = source.stamps[file]
    return Part(name, file, stamp, block.first_row, block.rows, block.start, block.first_line)


def _stems(names: list[str]) -> dict[str, str]:
    """What the files of vectors are called: as the file of rows, with its suffix where two share the rest."""
    plain = {name: str(PurePosixPath(name).with_suffix("")).replace("/", "__") for name in names}
    counts = Counter(plain.values())
    return {name: stem if counts[stem] == 1 else name.replace("/", "__") for name, stem in plain.items()}


def _blocks(source: Source, path: str, rows: int) -> Iterator[Block]:
    if source.kind == MEDIA:
        yield from _cut(0, len(source.listing), rows)
    elif source.kind == SAVED:
        yield from _cut(0, len(source.rows), rows)
    elif path.endswith(".parquet"):
        yield from _parquet_blocks(path, rows)
    elif path.endswith(".jsonl"):
        yield from line_blocks(path, rows)
    elif path.endswith(".tar"):
        yield from sample_blocks(path, rows)
    else:
        yield from _cut(0, len(rows_of_whole_file(path)), rows)


def _parquet_blocks(file: str, rows: int) -> Iterator[Block]:
    with parquet_errors(file), open_parquet(file) as handle:
        footer = pq.ParquetFile(handle).metadata
    groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    first = held = 0
    for count in groups:
        if held and held + count > rows:
            yield Block(0, first, held)
            first, held = first + held, 0
        held += count
        if held > rows:  # a group that is longer than a part
            *whole, last = _cut(first, held, rows)
            yield from whole
            first, held = last.first_row, last.rows
    if held:
        yield Block(0, first, held)


def _cut(first: int, count: int, rows: int) -> Iterator[Block]:
    for start in range(0, count, rows):
        yield Block(0, first + start, min(rows, count - start))
