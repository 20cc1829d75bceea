"""Reads the rows of parts in order, a few at a time, with the bytes of their pictures where these lie beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.data.media_files import TEXT_SUFFIXES
from llave_hf.data.sources.archive_samples import samples_of
from llave_hf.data.sources.archives import read_archive
from llave_hf.data.sources.files import parquet_errors
from llave_hf.data.sources.texts import check_texts, utf8_text
from llave_hf.data.stored.columns import pictures_of, with_places
from llave_hf.data.stored.groups import open_parquet
from llave_hf.data.stored.pictures import StoredPicture
from llave_hf.data.streaming.shards import read_lines, read_saved
from llave_hf.errors import UserError
from llave_hf.model.media_llave import IMAGE_SUFFIXES
from llave_hf.model.media_pictures_llave import MediaError

from .parts import Part
from .sources import FILES, MEDIA, Source, rows_of_whole_file

CHUNK_ROWS = 2048  # that are encoded together, so that inputs of like length share a forward
CHUNK_BYTES = 128 << 20  # of their pictures
_PICTURE_ROWS = 32  # of a parquet file that are decoded at once
_TEXT_MEMBERS = frozenset({"txt", "text", "transcript", "cls"})  # of an archive
_FIRST_SAMPLES = 100  # of an archive, that say which columns it has
_BUFFER = 1 << 20  # bytes that are read of a column at once; else all of a row group


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows.

    Attributes:
        table: With pictures as places.
        first_row: The first row's number in its file.
        raw: Of columns whose bytes were read with the rows, their values.
        errors: What is wrong with rows that could not be read, by place in the table.
    """

    table: pa.Table
    first_row: int
    raw: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    def picture(self, stored: StoredPicture) -> Any:
        """A picture of these rows: its bytes, or whatever `raw` holds for it.

        Raises:
            MediaError: There is none.
        """
        if stored.column not in self.raw:
            return stored.read()
        value = self.raw[stored.column][stored.row - self.first_row]
        value = value.as_py() if isinstance(value, pa.Scalar) else value
        if isinstance(value, (list, tuple)):
            value = value[stored.position]
        if isinstance(value, Mapping) and value.get("bytes") is not None:
            value = value["bytes"]
        if value is None or (isinstance(value, bytes) and not value):
            raise MediaError(f"{stored} holds no bytes; fill the picture in, or drop the row.")
        return value


class Reader:
    """Reads parts of a source.

    Args:
        source: The corpus.
        columns: Those to read, where they are there; None: all (of archives, see [`archive_columns`]).
        needed: Those that every parquet file must have.
    """

    def __init__(self, source: Source, columns: Sequence[str] | None, needed: Sequence[str] = ()) -> None:
        self._source = source
        self._columns = columns
        self._needed = needed
        self._open: tuple[str, int, _Stream] | None = None  # a parquet file, and where it stands

    def chunks(self, part: Part) -> Iterator[Chunk]:
        """The rows of a part.

        Raises:
            ValueError: The file cannot be read, or has not so many rows any more.
        """
        path = self._source.files[part.file]
        found = 0
        for chunk in self._read(path, part):
            found += len(chunk)
            yield chunk
        if found != part.rows:
            raise ValueError(f"{path} has changed while it was read: {found} rows stand where {part.rows} were found.")

    def _read(self, path: str, part: Part) -> Iterator[Chunk]:
        if self._source.kind == FILES and path.endswith(".parquet"):
            yield from self._parquet(path, part)
            return
        if self._source.kind == FILES:
            table = self._whole(path, part)
            for start in range(0, len(table), CHUNK_ROWS):
                yield Chunk(table.slice(start, CHUNK_ROWS), part.first_row + start)
            return
        for start in range(0, part.rows, CHUNK_ROWS):
            first, rows = part.first_row + start, min(CHUNK_ROWS, part.rows - start)
            yield self._media(first, rows) if self._source.kind == MEDIA else self._saved(path, first, rows)

    def _saved(self, path: str, first: int, rows: int) -> Chunk:
        columns = [name for name in self._source.rows.column_names if self._wants(name)]
        return Chunk(read_saved(path, self._source.rows, columns, first, first + rows), first)

    def _whole(self, path: str, part: Part) -> pa.Table:
        """The rows of a part that is read at once: texts alone, or places of pictures."""
        if path.endswith(".jsonl"):
            return read_lines(path, part.block)
        if path.endswith(".tar"):
            wanted = archive_columns(path) if self._columns is None else self._columns
            return read_archive(path, wanted, start=part.start, first_row=part.first_row, rows=part.rows)[0]
        return rows_of_whole_file(path).slice(part.first_row, part.rows)

    def _wants(self, name: str) -> bool:
        return self._columns is None or name in self._columns

    def _parquet(self, path: str, part: Part) -> Iterator[Chunk]:
        """Goes on where the part before ended, if that was of the same file: a long row group is not read again."""
        first, behind = part.first_row, part.first_row + part.rows
        if self._open is None or self._open[0] != path or self._open[1] != first:
            self._open = path, first, _Stream(self._tables(path, first))
        stream, self._open = self._open[2], None
        held: list[pa.Table] = []
        while (table := stream.take(behind - first)) is not None:
            held.append(table)
            first += len(table)
            if sum(map(len, held)) >= CHUNK_ROWS or sum(one.nbytes for one in held) >= CHUNK_BYTES:
                yield _with_bytes(held, path, first)
                held = []
        if held:
            yield _with_bytes(held, path, first)
        self._open = path, first, stream

    def _tables(self, path: str, first_row: int) -> Iterator[pa.Table]:
        """The rows from one on, as they are stored."""
        with parquet_errors(path), open_parquet(path) as handle:
            opened = pq.ParquetFile(handle, buffer_size=_BUFFER, pre_buffer=False)
            names = opened.schema_arrow.names
            lacking = [name for name in self._needed if name not in names]
            if lacking:
                raise UserError(f"{path} has no column {lacking[0]!r}; it has {', '.join(names)}.")
            columns = [name for name in names if self._wants(name)]
            groups, before = [], 0
            skip = first_row
            for number in range(opened.metadata.num_row_groups):
                rows = opened.metadata.row_group(number).num_rows
                before += rows
                if before > first_row:
                    groups.append(number)
                elif not groups:
                    skip -= rows
            size = _PICTURE_ROWS if set(pictures_of(opened.schema_arrow)) & set(columns) else CHUNK_ROWS
            if not columns:  # rows without a column that is wanted still count
                columns = names[:1]
            for batch in opened.iter_batches(size, row_groups=groups, columns=columns, use_threads=False):
                table = pa.Table.from_batches([batch]).replace_schema_metadata()
                if skip >= len(table):
                    skip -= len(table)
                    continue
                yield table.slice(skip)
                skip = 0

    def _media(self, first: int, rows: int) -> Chunk:
        files = self._source.listing[first : first + rows]
        folder = next(iter(self._source.files.values()))
        columns: dict[str, list[str | None]] = {"path": [], "text": [], "image": [], "video": []}
        errors: dict[int, str] = {}
        for place, file in enumerate(files):
            suffix = "." + file.path.rpartition(".")[2].lower()
            text = None
            if suffix in TEXT_SUFFIXES:
                try:
                    text = utf8_text(f"{folder}/{file.path}")
                except (OSError, ValueError) as error:
                    errors[place] = str(error)
            kind = "text" if suffix in TEXT_SUFFIXES else "image" if suffix in IMAGE_SUFFIXES else "video"
            values = {"path": file.path, kind: text if kind == "text" else file.path}
            for name, column in columns.items():
                column.append(values.get(name))
        return Chunk(
            pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), first, {}, errors
        )


def archive_columns(path: str) -> list[str]:
    """What is read of an archive where nothing says which columns: its picture, texts, classes, fields of JSON."""
    fields = read_archive(path, (), rows=_FIRST_SAMPLES)[1]
    members = samples_of(path, rows=_FIRST_SAMPLES).suffixes
    return [name for name in fields.names if name not in members or name.lower() in _TEXT_MEMBERS]


class _Stream:
    """Tables one after the other, cut where somebody stops."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._left: pa.Table | None = None

    def take(self, most: int) -> pa.Table | None:
        """The next rows, at most so many; None: there are none, or none are wanted."""
        table, self._left = (next(self._tables, None) if self._left is None and most else self._left), None
        if table is None or not most:
            self._left = table
            return None
        if len(table) > most:
            self._left = table.slice(most)
        return table.slice(0, most)


def _with_bytes(tables: Sequence[pa.Table], path: str, behind: int) -> Chunk:
    table = pa.concat_tables(tables)
    first = behind - len(table)
    raw = {name: table.column(name) for name in pictures_of(table.schema)}
    return Chunk(check_texts(with_places(table, path, first), path, first), first, raw)
