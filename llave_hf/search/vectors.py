"""Takes a folder of vectors, as `llave embed` writes it, into a collection: nothing of the corpus is encoded again."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.corpus.inputs import side_of
from llave_hf.corpus.manifest import FILE, Manifest, read_manifest
from llave_hf.corpus.shards import EMBEDDING, ERROR, FILE_COLUMN, ROW_COLUMN
from llave_hf.corpus.sources import MEDIA
from llave_hf.data.described.sides import SideTemplates
from llave_hf.encoding.model_identity import path_revision
from llave_hf.errors import UserError

from .indexing import IndexReport
from .store import Store, quoted, rows_of

_ROWS = 4096  # that are written together


def is_vectors(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that `llave embed` wrote."""
    return (Path(folder) / FILE).is_file()


def vectors_manifest(folder: str | os.PathLike[str], model: str | None) -> Manifest:
    """The manifest of a folder of vectors that a collection can take.

    Args:
        model: That the collection is to be asked with; None: the one of the vectors.

    Raises:
        UserError: They are another model's, shortened or quantized, or not all there.
    """
    manifest = read_manifest(Path(folder))
    assert manifest is not None
    settings = manifest.settings
    name = settings["model"] if model is None else model
    if path_revision(name) != settings["model_revision"]:
        raise UserError(
            f"{os.fspath(folder)} holds vectors of {settings['model']} as it was ({settings['model_revision']}), and "
            f"{name} has other weights or settings: name that model with --model, or embed the corpus anew."
        )
    if settings["precision"] not in ("float32", "float16") or settings["dimensions"] != settings["model_dimensions"]:
        raise UserError(
            f"{os.fspath(folder)} holds {settings['precision']} vectors of {settings['dimensions']} dimensions; a "
            f"collection takes float32 or float16 of all {settings['model_dimensions']}, which its questions have."
        )
    missing = [part.name for part in manifest.parts if not (Path(folder) / part.name).is_file()]
    if missing:
        raise UserError(
            f"{os.fspath(folder)} is not finished ({missing[0]} and so on are missing): run llave embed again."
        )
    return manifest


def add_vectors(store: Store, folder: Path, manifest: Manifest, ann_from: int) -> IndexReport:
    """Puts all rows of a folder of vectors into a collection, in place of what it has of them.

    A hit is the picture or video that a row names. A row that holds its picture, or is a text, is named by its file
    and number, `rows.parquet#17`.
    """
    started = time.monotonic()
    report = IndexReport()
    rows = _Rows(manifest, folder)
    known = set(store.read(["path"], f"root = {quoted(rows.root)}")["path"].to_pylist())
    for part in manifest.parts:
        for batch in pq.ParquetFile(folder / part.name).iter_batches(_ROWS):
            table = pa.Table.from_batches([batch])
            entries, notes = rows.entries(table, (folder / part.name).stat().st_mtime_ns)
            keep = table[ERROR].is_null()
            values = table[EMBEDDING].filter(keep).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            vectors = values.astype(np.float32).reshape(len(entries), store.dimension)
            again = sorted({row["path"] for row in (*entries, *notes)} & known)
            store.replace(rows.root, again, rows_of(entries, vectors, store.schema), notes)
            report.added += len(entries)
            report.broken.update({note["path"]: f"{note['path']}: {note['reason']}" for note in notes})
    report.approximate = store.tidy(ann_from)
    report.rows = sum(store.counts("kind").values())
    report.seconds = time.monotonic() - started
    return report


class _Rows:
    """What a collection says of rows: the file that each stands for, its kind, and the text of a passage."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.root = manifest.settings["root"] or str(folder)
        self._revision = manifest.settings["model_revision"]
        self._side: SideTemplates = side_of(manifest.settings["input"], manifest.columns, str(folder))
        self._kept = set(manifest.kept)
        self._are_files = manifest.settings["kind"] == MEDIA and {"path", "text", "image", "video"} <= self._kept

    def entries(self, table: pa.Table, written: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows that have a vector, and notes on the others."""
        entries, notes = [], []
        for row in table.drop_columns([EMBEDDING]).to_pylist():
            kind, path = self._medium(row)
            size, modified = self._state(path, written)
            own = {"path": path, "size": size, "modified": modified}
            if row[ERROR] is not None:
                notes.append({**own, "reason": row[ERROR]})
                continue
            place = {"root": self.root, "digest": f"{self._revision} {path}", "kind": kind, "part": 0}
            text = self._text(row) if kind == "text" else None
            passage = {} if text is None else {"text": text, "start": 0, "end": len(text)}
            entries.append({**own, **place, **passage})
        return entries, notes

    def _medium(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """A row's kind, and the path or name by which it is shown."""
        if self._are_files:
            return next((kind for kind in ("image", "video") if row[kind]), "text"), row["path"]
        number = f"{row[FILE_COLUMN]}#{row[ROW_COLUMN]}"
        for kind in ("image", "video"):
            template = getattr(self._side, kind)
            if template is None:
                continue
            column = template.column()
            if column is not None and column not in self._kept:  # pictures inside the table
                return kind, number
            path = row[column] if column in row else self._filled(template, row)
            if isinstance(path, str) and path and not path.startswith("data:"):
                return kind, path
        return "text", number

    def _text(self, row: Mapping[str, Any]) -> str:
        template = self._side.text
        known = template is not None and set(template.columns()) <= self._kept
        return self._filled(template, row) if known else f"{row[FILE_COLUMN]}, row {row[ROW_COLUMN]}"

    @staticmethod
    def _filled(template: Any, row: Mapping[str, Any]) -> str:
        return str(template.fill(row, f"row {row[ROW_COLUMN]}"))

    def _state(self, path: str, written: int) -> tuple[int, int]:
        try:
            found = os.stat(os.path.join(self.root, path))
        except OSError:  # a row of a file
            return 0, written
        return found.st_size, found.st_mtime_ns
