"""A collection's tables in LanceDB: one row a picture, a video or a passage, and one a file that cannot be used.

What the collection was made with stands in the table's schema, so that it cannot be lost from its rows.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from llave_hf.errors import UserError

from .filters import one_of, quoted

ENTRIES, BROKEN = "entries", "broken"
FORMAT = 1
PATHS_A_CONDITION = 500
# Of the approximate index: partitions looked at, and candidates a hit whose exact score is computed.
PROBES, REFINE = 60, 20
_KEY = b"llave"
_FILE = [("root", pa.string()), ("path", pa.string()), ("size", pa.int64()), ("modified", pa.int64())]


class Store:
    """A collection's tables.

    Args:
        uri: A folder, or an object store's address that LanceDB knows (`s3://…`, `gs://…`, `az://…`).
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.is_local = "://" not in uri
        self._connection = _connect(uri)
        self.exists = ENTRIES in self._connection.list_tables().tables
        if self.exists:
            self._open()

    def create(self, settings: Mapping[str, Any], dimension: int) -> None:
        """Makes empty tables; earlier ones are dropped."""
        fields = [
            *_FILE,
            ("digest", pa.string()),
            ("kind", pa.string()),
            ("part", pa.int32()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("text", pa.string()),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
        known = json.dumps({"format": FORMAT, **settings})
        self._connection.create_table(BROKEN, schema=pa.schema([*_FILE, ("reason", pa.string())]), mode="overwrite")
        schema = pa.schema(fields, metadata={_KEY: known.encode()})
        self._connection.create_table(ENTRIES, schema=schema, mode="overwrite")
        self.exists = True
        self._open()

    def _open(self) -> None:
        self._entries, self._broken = self._connection.open_table(ENTRIES), self._connection.open_table(BROKEN)
        self.schema = self._entries.schema
        if _KEY not in (self.schema.metadata or {}):
            raise UserError(f"{self.uri} holds a table {ENTRIES!r} that llave did not make; name another place.")
        self.settings: dict[str, Any] = json.loads(self.schema.metadata[_KEY])
        if self.settings["format"] != FORMAT:
            raise UserError(
                f"{self.uri} has the format {self.settings['format']}, not {FORMAT}; index with --rebuild."
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time, in a local folder; an object store leaves that to its users.

        Raises:
            UserError: Another process writes.
        """
        if not self.is_local:
            yield
            return
        Path(self.uri).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(self.uri) / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(f"another llave index is writing to {self.uri}; wait for it to end.") from error
        try:
            yield
        finally:
            lock.release()

    def read(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        """Columns of all rows, or of those that a condition keeps."""
        query = self._entries.search().select(list(columns))
        return (query.where(where) if where else query).limit(self._entries.count_rows() or 1).to_arrow()

    def read_broken(self, root: str) -> list[dict[str, Any]]:
        return self._broken.search().where(f"root = {quoted(root)}").limit(None).to_list()

    def replace(self, root: str, paths: Sequence[str], rows: pa.Table, broken: Sequence[Mapping[str, Any]]) -> None:
        """Puts rows, or notes of what is wrong, in the place of all that is known of some files."""
        self.remove(root, paths)
        if rows.num_rows:
            self._entries.add(rows.cast(self.schema))
        if broken:
            self._broken.add([{"root": root, **entry} for entry in broken])

    def remove(self, root: str, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), PATHS_A_CONDITION):
            where = f"root = {quoted(root)} AND {one_of('path', paths[start : start + PATHS_A_CONDITION])}"
            for table in (self._entries, self._broken):
                if table.count_rows(where):  # a deletion of nothing would be a version all the same
                    table.delete(where)

    def tidy(self, ann_from: int) -> bool:
        """Joins small pieces, and brings the approximate index up to date; makes one from `ann_from` rows on.

        Returns:
            Whether there is an approximate index.
        """
        rows, has_index = self._entries.count_rows(), self.has_index
        if rows >= ann_from and not has_index:
            self._entries.create_index("vector", config=_index(self.dimension))
        elif has_index and rows < ann_from // 2:
            self._entries.drop_index(self._entries.list_indices()[0].name)
        self._entries.optimize()
        self._broken.optimize()
        return self.has_index

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.schema.field("vector").type.list_size

    @property
    def has_index(self) -> bool:
        return bool(self._entries.list_indices())

    def nearest(self, vector: np.ndarray, count: int, where: str | None, exact: bool) -> list[dict[str, Any]]:
        """The rows nearest to a unit vector `(D,)`, with `_distance`, 1 - cosine."""
        query = self._entries.search(vector, vector_column_name="vector").distance_type("cosine").limit(count)
        if where:
            query = query.where(where)
        query = query.bypass_vector_index() if exact else query.nprobes(PROBES).refine_factor(REFINE)
        shown = [name for name in self.schema.names if name not in ("vector", "digest", "part")]
        return query.select([*shown, "_distance"]).to_list()

    def counts(self, column: str) -> dict[str, int]:
        """How many rows have each value of a column."""
        values = self.read([column])[column].value_counts().to_pylist()
        return {entry["values"]: entry["counts"] for entry in values}


def _index(dimension: int) -> Any:
    """Of three bits a number where the length allows it; the whole vectors stay for the exact score."""
    from lancedb.index import IvfFlat, IvfRq

    return IvfRq(distance_type="cosine", num_bits=3) if dimension % 8 == 0 else IvfFlat(distance_type="cosine")


def _connect(uri: str) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of each table that it is asked to make
    try:
        import lancedb
    except ImportError as error:
        raise UserError("search needs LanceDB: pip install 'llave-hf[search]'.") from error
    return lancedb.connect(uri)


def rows_of(entries: Iterable[Mapping[str, Any]], vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    """A table from rows without vectors and their vectors `(n, D)`."""
    plain = pa.Table.from_pylist(list(entries), schema=schema.remove(schema.get_field_index("vector")))
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, schema.field("vector").type.list_size)
    return plain.append_column(schema.field("vector"), column)
