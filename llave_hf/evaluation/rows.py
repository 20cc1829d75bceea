"""Reads a benchmark's rows: parquet or JSONL files of a local folder, or a data set of the Hub.

A subset's files, in the order in which they are looked for (parquet before jsonl), as the Hub lays them out:

    <folder>/<subset>/<split>-*.parquet    <folder>/<subset>/<split>/*.parquet
    <folder>/<subset>/<split>.parquet      <folder>/<subset>.parquet
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .benchmark import Benchmark, BenchmarkError, Task

ROWS_PER_BATCH = 256
COMMIT = re.compile(r"@([0-9a-f]{40})/")


class RowReader:
    """Reads the subsets of one benchmark and remembers which data that was."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self._digest = hashlib.sha256()
        self._task_digest = hashlib.sha256()
        self._local = False
        self._commits: set[str] = set()
        self._task_commits: set[str] = set()

    def read(self, task: Task) -> Iterator[dict[str, Any]]:
        """Yield the rows of a subset; `task_revision` then tells which data these were.

        Raises:
            BenchmarkError: no rows can be had, or a file is broken; the message names subset and place.
        """
        self._task_digest = hashlib.sha256()
        self._task_commits = set()
        folder = self.benchmark.source if isinstance(self.benchmark.source, Path) else self.benchmark.data
        files = _row_files(folder, task.name, self.benchmark.split) if folder is not None else []
        if files:
            for file in files:
                self._remember(file)
                yield from _read_file(file, task.name)
        elif isinstance(self.benchmark.source, Path):
            split = self.benchmark.split
            raise BenchmarkError(
                f"{task.name}: there are no rows of split {split!r} in {folder}: expected "
                f"{task.name}/{split}-*.parquet (or .jsonl), or {task.name}.parquet (or .jsonl)."
            )
        else:
            yield from self._read_hub(self.benchmark.source, task)

    @property
    def revision(self) -> str | None:
        """Of the data read so far: commits of the Hub, and a digest of the local files' names and contents."""
        local = [f"sha256:{self._digest.hexdigest()[:16]}"] if self._local else []
        return ", ".join(sorted(self._commits) + local) or None

    @property
    def task_revision(self) -> str:
        """The same of the subset that was read last alone."""
        return ", ".join(sorted(self._task_commits)) or f"sha256:{self._task_digest.hexdigest()[:16]}"

    def _remember(self, file: Path) -> None:
        self._local = True
        for digest in (self._digest, self._task_digest):
            digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                self._digest.update(block)
                self._task_digest.update(block)

    def _read_hub(self, source: str, task: Task) -> Iterator[dict[str, Any]]:
        import datasets

        where = f"{task.name}: the rows of {source} (split {self.benchmark.split!r})"
        try:
            rows = datasets.load_dataset(
                source, task.name, split=self.benchmark.split, revision=self.benchmark.revision
            )
        except ConnectionError as error:
            raise BenchmarkError(
                f"{where} cannot be downloaded: {error}. Check the network (HF_HUB_OFFLINE=1 allows the cache only), "
                "or give --data DIR with a local copy of the data set."
            ) from error
        except (OSError, ValueError) as error:  # no such data set, subset, split or revision
            raise BenchmarkError(
                f"{where} cannot be read: {error}. Check source, revision, split and subset."
            ) from error
        commits = {match[1] for url in rows.download_checksums or {} if (match := COMMIT.search(str(url)))}
        self._task_commits = commits or {self.benchmark.revision or "unknown"}
        self._commits |= self._task_commits
        yield from rows


def _row_files(folder: Path, subset: str, split: str) -> list[Path]:
    for suffix in ("parquet", "jsonl"):
        inside = folder / subset
        for found in (
            inside.glob(f"{split}-*.{suffix}"),
            (inside / split).glob(f"*.{suffix}"),
            filter(Path.is_file, [inside / f"{split}.{suffix}"]),
            filter(Path.is_file, [folder / f"{subset}.{suffix}"]),
        ):
            if files := sorted(found):
                return files
    return []


def _read_file(file: Path, subset: str) -> Iterator[dict[str, Any]]:
    return _read_parquet(file, subset) if file.suffix == ".parquet" else _read_jsonl(file, subset)


def _read_parquet(file: Path, subset: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(ROWS_PER_BATCH):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(f"{subset}: {file} cannot be read as parquet: {error}. Copy the file anew.") from error


def _read_jsonl(file: Path, subset: str) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BenchmarkError(f"{subset}: line {number} of {file} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise BenchmarkError(
                    f"{subset}: line {number} of {file} must be an object of columns, not {row!r:.80}."
                )
            yield row
