"""Reads a benchmark's rows: parquet or JSONL files of a local folder, or a data set of the Hub.

A subset's files, in the order in which they are looked for (parquet before jsonl), as the Hub lays them out:

    <folder>/<subset>/<split>-*.parquet         <folder>/<subset>/<split>/*.parquet
    <folder>/<subset>/data/<split>-*.parquet    <folder>/<subset>/<split>.parquet    <folder>/<subset>.parquet

A subset with several tables or configurations has a folder or file for each in `<folder>/<subset>/`. A subset with a
folder of its own as `source` needs no `<subset>` in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from llave_hf.data.sources.texts import check_texts, utf8_lines

from .benchmark import Benchmark, Task
from .fields import BenchmarkError
from .formats import Tables
from .raw import TaskRows

ROWS_PER_BATCH = 256
COMMITS_NAMED = 3  # more are counted; each subset names its own
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

    def open(self, task: Task) -> TaskRows:
        """A subset's queries, answers and candidates; once they are read, `task_revision` tells which data these were.

        Raises:
            BenchmarkError: no rows can be had, a file is broken, or a row cannot be used; the message names subset and
                place.
        """
        self._task_digest = hashlib.sha256()
        self._task_commits = set()
        root = self.benchmark.media_root
        media = root / task.media if root is not None else None
        return task.format.read(Tables(task.name, lambda table: self.read(task, table), media, task.limit))

    def read(self, task: Task, table: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of a subset, as they are written.

        Args:
            table: one of several that the subset consists of; None: there is one.

        Raises:
            BenchmarkError: no rows can be had, or a file is broken; the message names subset and place.
        """
        source = self.benchmark.source if task.source is None else task.source
        folder = source if isinstance(source, Path) else self.benchmark.data
        own_folder = task.source if isinstance(task.source, Path) else None
        if folder is not None and own_folder is None and (task.source or task.subset or table):
            folder = folder / task.name
        shared = None if task.source else task.name
        for config in (table,) if table else task.subset or (shared,):
            rows = self._read_config(task, source, folder, config)
            yield from ({**row, "subset": config} for row in rows) if len(task.subset) > 1 else rows

    def _read_config(
        self, task: Task, source: str | Path, folder: Path | None, config: str | None
    ) -> Iterator[dict[str, Any]]:
        split = task.split or self.benchmark.split
        files = _row_files(folder, config, split) if folder is not None else []
        if files:
            for file in files:
                self._remember(file)
                yield from _read_file(file, task.name)
        elif isinstance(source, Path):
            inside, name = ("", f"{folder}") if config is None else (f"{config}/", config)
            raise BenchmarkError(
                f"{task.name}: there are no rows of split {split!r} in {folder}: expected "
                f"{inside}{split}-*.parquet (or .jsonl), or {name}.parquet (or .jsonl)."
            )
        else:
            yield from self._read_hub(source, task, config)

    @property
    def revision(self) -> str | None:
        """Of the data read so far: commits of the Hub (a digest of many), and a digest of the local files."""
        commits = sorted(self._commits)
        if len(commits) > COMMITS_NAMED:
            digest = hashlib.sha256(" ".join(commits).encode()).hexdigest()[:16]
            commits = [f"{len(commits)} commits, together sha256:{digest}"]
        local = [f"sha256:{self._digest.hexdigest()[:16]}"] if self._local else []
        return ", ".join(commits + local) or None

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

    def _read_hub(self, source: str, task: Task, config: str | None) -> Iterator[dict[str, Any]]:
        import datasets

        split = task.split or self.benchmark.split
        revision = task.revision if task.source else self.benchmark.revision
        where = f"{task.name}: the rows of {source} (split {split!r})"
        try:
            rows = datasets.load_dataset(source, config, split=split, revision=revision)
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
        self._task_commits |= commits or {revision or "unknown"}
        self._commits |= self._task_commits
        for column, feature in rows.features.items():
            if isinstance(feature, datasets.Image):  # bytes, not opened: the picture is kept as it is
                rows = rows.cast_column(column, datasets.Image(decode=False))
        yield from rows


def _row_files(folder: Path, config: str | None, split: str) -> list[Path]:
    inside = folder / config if config else folder
    for suffix in ("parquet", "jsonl"):
        for found in (
            inside.glob(f"{split}-*.{suffix}"),
            (inside / split).glob(f"*.{suffix}"),
            (inside / "data").glob(f"{split}-*.{suffix}"),
            filter(Path.is_file, [inside / f"{split}.{suffix}"]),
            filter(Path.is_file, [inside.with_name(f"{inside.name}.{suffix}")]),
        ):
            if files := sorted(file for file in found if not file.name.startswith(".")):
                return files
    return []


def _read_file(file: Path, subset: str) -> Iterator[dict[str, Any]]:
    return _read_parquet(file, subset) if file.suffix == ".parquet" else _read_jsonl(file, subset)


def _read_parquet(file: Path, subset: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    first = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(ROWS_PER_BATCH):
            checked = check_texts(pyarrow.Table.from_batches([batch]), str(file), first)
            first += len(checked)
            yield from checked.to_pylist()
    except ValueError as error:
        if isinstance(error, pyarrow.ArrowException):
            raise BenchmarkError(
                f"{subset}: {file} cannot be read as parquet: {error}. Copy the file anew."
            ) from error
        raise BenchmarkError(f"{subset}: {error}") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(f"{subset}: {file} cannot be read as parquet: {error}. Copy the file anew.") from error


def _read_jsonl(file: Path, subset: str) -> Iterator[dict[str, Any]]:
    with file.open("rb") as stream:
        for number, line in enumerate(_lines(stream, file, subset), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BenchmarkError(f"{subset}: line {number} of {file} is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise BenchmarkError(
                    f"{subset}: line {number} of {file} must be an object of columns, not {row!r:.80}."
                )
            yield row


def _lines(stream: IO[bytes], file: Path, subset: str) -> Iterator[str]:
    try:
        yield from utf8_lines(stream, file)
    except ValueError as error:  # of the encoding
        raise BenchmarkError(f"{subset}: {error}") from error
