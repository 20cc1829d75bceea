"""Brings a collection up to date with a folder, chunk by chunk, so that a stopped run loses one chunk at most."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from llave_hf.data.media_files import File, list_files
from llave_hf.encoding.prompts import document_input

from .changes import find_changes
from .embedder import Embedder
from .files import digest_of, kind_of
from .forecast import Forecast, spoken
from .passages import read_passages
from .store import Store, one_of, rows_of

SOON = 2.0  # seconds: a file that takes less is timed again, in a group
FIRST_CHUNK, LARGEST_CHUNK = 32, 1024  # files
SECONDS_A_CHUNK = 20.0
_FILE_ERRORS = (ValueError, OSError, SyntaxError)  # the last is Pillow's, of a broken GIF
Entry = dict[str, Any]


@dataclass
class IndexReport:
    """What a run did, in files.

    Attributes:
        added: New and encoded.
        changed: With another content than before, and encoded.
        moved: Under another path than before; their vectors were kept.
        copied: With the content of another file; its vectors were taken.
        unchanged: As they were.
        removed: Gone, or left out now.
        broken: Those that cannot be used, and why; they are tried again when they change.
        left_out: How many were no candidates, by reason.
        rows: Of the whole collection afterwards: pictures, videos and passages.
        approximate: Whether searches use an approximate index.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    unchanged: int = 0
    removed: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    approximate: bool = False
    seconds: float = 0.0


class Indexer:
    """Indexes one folder into a collection.

    Args:
        store: An existing collection's tables.
        embedder: Gives the model, which is opened when it is first needed.
        root: The folder.
        stored_root: Its name in the tables.
        progress: Whether standard error is told how long it will take, and a bar with the remaining time.
    """

    def __init__(
        self,
        store: Store,
        embedder: Callable[[], Embedder],
        root: Path,
        stored_root: str,
        progress: bool,
    ) -> None:
        self.store, self._embedder = store, embedder
        self.root, self.stored_root = root, stored_root
        self.progress = progress
        self.report = IndexReport()
        self._first_chunk: int | None = None

    def run(self, include: Sequence[str], exclude: Sequence[str], ann_from: int) -> IndexReport:
        """See [`Collection.add`]."""
        started = time.monotonic()
        listing = list_files(self.root, include, exclude)
        self._changes = find_changes(self.store, self.stored_root, listing.files)
        self._vanished = {digest for path, digest in self._changes.known.items() if path in set(self._changes.gone)}
        report = self.report
        report.unchanged, report.left_out = self._changes.unchanged, listing.left_out
        report.broken = dict(self._changes.broken)
        pending = self._changes.pending
        if self.progress and len(pending) > 1:
            pending = self._foretell(pending)
        for chunk in self._chunks(pending):
            self._index(chunk)
        # Last, so that what has moved finds its vectors.
        self.store.remove(self.stored_root, self._changes.gone)
        report.removed = len(self._changes.gone) - report.moved
        report.approximate = self.store.tidy(ann_from)
        report.rows = sum(self.store.counts("kind").values())
        report.seconds = time.monotonic() - started
        return report

    def _foretell(self, files: Sequence[File]) -> list[File]:
        """Indexes and times one file of each kind, says how long the others will take, and gives those back."""
        encoder = self._embedder().encoder
        forecast = Forecast(self.root, files, getattr(encoder, "processor", None))
        sys.stderr.write(f"To index: {forecast.contents()}. A few of each kind are timed first.\n")
        timed: dict[str, tuple[File, float]] = {}
        tried: set[str] = set()
        for kind, candidates in forecast.candidates.items():
            if kind != "text":
                self._embedder().check_pictures()  # which is not the file's time
            for file in candidates:
                began = time.monotonic()
                self._index([file], alone=True)
                tried.add(file.path)
                if file.path in self.report.broken:
                    continue
                timed[kind] = file, time.monotonic() - began
                if timed[kind][1] < SOON and (group := forecast.group(kind, tried)):
                    # Of a quick file most of the time went into what is done once a chunk, not once a file.
                    began = time.monotonic()
                    self._index(group)
                    tried |= {one.path for one in group}
                    timed[kind] = group[len(group) // 2], (time.monotonic() - began) / len(group)
                break
        seconds = forecast.seconds(timed)
        rest = [file for file in files if file.path not in tried]
        if rest:
            sys.stderr.write(f"The other {len(rest):,} will take about {spoken(seconds)} on this machine.\n")
            self._first_chunk = max(1, min(FIRST_CHUNK, int(SECONDS_A_CHUNK * len(rest) / (seconds + 1e-6))))
        return rest

    def _chunks(self, files: Sequence[File]) -> Iterator[Sequence[File]]:
        """Of about `SECONDS_A_CHUNK` of work each."""
        size, start = self._first_chunk or FIRST_CHUNK, 0
        with tqdm(total=len(files), desc="Indexing", unit="file", disable=not self.progress or not files) as bar:
            while start < len(files):
                began = time.monotonic()
                chunk = files[start : start + size]
                yield chunk
                bar.update(len(chunk))
                start += len(chunk)
                wanted = int(len(chunk) * SECONDS_A_CHUNK / (time.monotonic() - began + 1e-6))
                size = max(1, min(wanted, 4 * size, LARGEST_CHUNK))

    def _index(self, files: Sequence[File], *, alone: bool = False) -> None:
        """Encodes what is new in a chunk, takes the vectors of what is known, and writes both at once.

        A bar for each forward if it stands `alone`, without that of all files around it.
        """
        broken: dict[str, str] = {}
        digests: dict[str, str] = {}
        for file in files:
            try:
                digests[file.path] = digest_of(self.root / file.path)
            except OSError as error:
                broken[file.path] = f"{self.root / file.path} cannot be read ({error.strerror})"
        readable = [file for file in files if file.path in digests]
        known = self._known_rows(set(digests.values()) & self._changes.digests)
        entries: list[Entry] = []
        vectors: list[np.ndarray] = []
        for file in readable:
            for row in known.get(digests[file.path], ()):
                vectors.append(np.asarray(row["vector"], dtype=np.float32))
                kept = {name: value for name, value in row.items() if name != "vector"}
                entries.append(self._entry(file, digests[file.path], kept))
        fresh = [file for file in readable if digests[file.path] not in known]
        new_entries, inputs = self._open(fresh, digests, broken)
        made = self._encode(new_entries, inputs, broken, alone)
        entries += [entry for entry, _ in made]
        vectors += [vector for _, vector in made]
        entries, vectors = _without(entries, vectors, broken)
        self._write(files, entries, vectors, broken)
        self._count(files, digests, set(known), broken)

    def _known_rows(self, digests: set[str]) -> dict[str, list[Entry]]:
        columns = ["root", "path", "digest", "kind", "part", "start", "end", "text", "vector"]
        rows = self.store.read(columns, one_of("digest", sorted(digests))).to_pylist() if digests else []
        first: dict[str, tuple[str, str]] = {}
        found: dict[str, list[Entry]] = {}
        for row in rows:  # of one of the files that have the content
            if first.setdefault(row["digest"], (row["root"], row["path"])) == (row["root"], row["path"]):
                found.setdefault(row["digest"], []).append(row)
        return found

    def _open(
        self, files: Sequence[File], digests: Mapping[str, str], broken: dict[str, str]
    ) -> tuple[list[Entry], list[Any]]:
        """Rows without vectors and what `encode` is given for each."""
        entries: list[Entry] = []
        inputs: list[Any] = []
        prompts = self.store.settings["prompts"]
        for file in files:
            path = self.root / file.path
            try:
                kind = kind_of(path)
                passages = read_passages(path) if kind == "text" else []
            except _FILE_ERRORS as error:
                broken[file.path] = str(error)
                continue
            for part, passage in enumerate(passages):
                place = {"part": part, "start": passage.start, "end": passage.end, "text": passage.text}
                entries.append(self._entry(file, digests[file.path], {"kind": kind, **place}))
                inputs.append(document_input(prompts, kind, passage.text))
            if kind != "text":
                entries.append(self._entry(file, digests[file.path], {"kind": kind, "part": 0}))
                inputs.append(document_input(prompts, kind, str(path)))
        return entries, inputs

    def _entry(self, file: File, digest: str, rest: Entry) -> Entry:
        own = {"path": file.path, "size": file.size, "modified": file.modified}
        return {**rest, **own, "root": self.stored_root, "digest": digest}

    def _encode(
        self, entries: list[Entry], inputs: list[Any], broken: dict[str, str], bar: bool
    ) -> list[tuple[Entry, np.ndarray]]:
        """Rows and their vectors, but for those whose input cannot be used."""
        if not entries:
            return []
        vectors, reasons = self._embedder().usable(inputs, progress=bar)
        for place, reason in reasons.items():
            path = entries[place]["path"]
            broken.setdefault(path, reason if path in reason else f"{path}: {reason}")
        return [(entry, vector) for entry, vector in zip(entries, vectors, strict=True) if vector is not None]

    def _write(
        self, files: Sequence[File], entries: list[Entry], vectors: list[np.ndarray], broken: Mapping[str, str]
    ) -> None:
        stacked = np.stack(vectors) if vectors else np.empty((0, self.store.dimension))
        states = {file.path: file for file in files}
        notes = [
            {"path": path, "size": states[path].size, "modified": states[path].modified, "reason": reason}
            for path, reason in broken.items()
        ]
        rows = rows_of(entries, stacked, self.store.schema)
        self.store.replace(self.stored_root, sorted(self._changes.noted & set(states)), rows, notes)
        self._changes.digests.update(entry["digest"] for entry in entries)

    def _count(
        self, files: Sequence[File], digests: Mapping[str, str], known: set[str], broken: Mapping[str, str]
    ) -> None:
        report, before = self.report, self._changes.known
        for file in files:
            digest = digests.get(file.path)
            if file.path in broken:
                report.broken[file.path] = broken[file.path]
            elif before.get(file.path) == digest:
                report.unchanged += 1  # another time, the same content
            elif digest not in known:
                report.added += file.path not in before
                report.changed += file.path in before
            elif digest in self._vanished:
                self._vanished.discard(digest)
                report.moved += 1
            else:
                report.copied += 1


def _without(
    entries: list[Entry], vectors: list[np.ndarray], broken: Mapping[str, str]
) -> tuple[list[Entry], list[np.ndarray]]:
    """A file is indexed whole or not at all."""
    kept = [(entry, vector) for entry, vector in zip(entries, vectors, strict=True) if entry["path"] not in broken]
    return [entry for entry, _ in kept], [vector for _, vector in kept]
