"""The distinct inputs of a benchmark: each text, picture or video is listed, checked and encoded once.

Queries and candidates of all subsets share one list, by content (:meth:`Sample.key`): MMEB's 36,000 queries name some
thirty million candidates, most of them again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llave_hf.data.media import MediaError, load_sample, resolve_media_path
from llave_hf.data.samples import Sample, sample_from

from .benchmark import Benchmark, BenchmarkError, Task
from .metrics import IntArray
from .mmeb import RawInput, parse_row
from .rows import RowReader

logger = logging.getLogger(__name__)
ROWS_NAMED = 5  # how many culprits a message lists


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """A subset as numbers of distinct inputs.

    Attributes:
        queries: (Q,)
        pools: Q arrays of the query's distinct candidates, the answer first.
        duplicates: candidates that were left out because the same content stands before them in the same list.
    """

    task: Task
    queries: IntArray
    pools: list[IntArray]
    duplicates: int


class DistinctInputs:
    """Numbers inputs by content, and remembers where each was seen first (subset and row) for messages."""

    def __init__(self, media_root: Path | None) -> None:
        self.media_root = media_root
        self.samples: list[Sample] = []
        self._places: list[str] = []
        self._by_raw: dict[RawInput, int] = {}
        self._by_key: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def add(self, raw: RawInput, place: str) -> int:
        """The number of this input; the same content always has the same."""
        number = self._by_raw.get(raw)
        if number is None:
            sample = self._sample(raw, place)
            number = self._by_key.setdefault(sample.key(), len(self.samples))
            if number == len(self.samples):
                self.samples.append(sample)
                self._places.append(place)
            self._by_raw[raw] = number
        return number

    def check_media(self) -> None:
        """Look for every picture and video file, before any is opened.

        Raises:
            BenchmarkError: files are missing or may not be read; it counts them and names the first ones with subset
                and row.
        """
        problems: dict[str, str] = {}
        for sample, place in zip(self.samples, self._places, strict=True):
            for path in (*sample.images, *([sample.video] if sample.video else [])):
                if path not in problems and (problem := self._problem(path)):
                    problems[path] = f"{place}: {problem}"
        if problems:
            named = "\n  ".join(list(problems.values())[:ROWS_NAMED])
            raise BenchmarkError(
                f"{len(problems)} picture or video file(s) cannot be used (the first are named):\n  {named}\n"
                f"Paths are relative to {self.media_root}: correct `media`, give --data, or complete the data."
            )

    def load(self, number: int) -> str | dict[str, Any]:
        """The input in the form that `encode` takes: text, or a dict of text, image(s) and video with pictures opened.

        Raises:
            BenchmarkError: a file is broken; the message names subset, row and file.
        """
        sample = self.samples[number]
        if not sample.images and not sample.video:
            return sample.text
        try:
            loaded = load_sample(sample)
        except (MediaError, OSError) as error:
            raise BenchmarkError(f"{self._places[number]}: {error}") from error
        encodable: dict[str, Any] = {"text": sample.text} if sample.text else {}
        if images := loaded.get("images"):
            encodable["image"] = images[0] if len(images) == 1 else images
        if (video := loaded.get("video")) is not None:
            encodable["video"] = video
        return encodable

    def place(self, number: int) -> str:
        """Subset and row where the input was seen first."""
        return self._places[number]

    def encoding_order(self) -> IntArray:
        """(M,) texts, pictures and videos apart, alike lengths together: little padding in a batch."""
        size = [(bool(sample.video), len(sample.images), len(sample.text)) for sample in self.samples]
        return np.array(sorted(range(len(size)), key=size.__getitem__), dtype=np.int64)

    def _problem(self, path: str) -> str | None:
        try:
            resolve_media_path(path, self.media_root)
            return None
        except (MediaError, OSError) as error:
            return str(error)

    def _sample(self, raw: RawInput, place: str) -> Sample:
        if (raw.images or raw.video) and self.media_root is None:
            raise BenchmarkError(
                f"{place} needs {(raw.video, *raw.images)[-1]}: say with --data DIR where the pictures lie."
            )
        try:
            sample = sample_from(raw.text, raw.images, raw.video or None, media_root=self.media_root)
        except ValueError as error:
            raise BenchmarkError(f"{place}: {error}") from error
        if sample.text != raw.text and not (sample.images or sample.video):
            raise BenchmarkError(
                f"{place}: the text {raw.text!r:.80} marks a picture, but no path is given: fill it in."
            )
        return sample


def collect_inputs(benchmark: Benchmark, reader: RowReader) -> tuple[DistinctInputs, list[TaskInputs]]:
    """Read all rows, check them and their files, and number the distinct inputs.

    A candidate with the content of an earlier one in the same list is counted once: it could only tie with it. Where
    the answer itself is repeated that is a flaw of the data (no encoder could tell the two apart): without this
    a perfect encoder would get half a point. A warning names the rows.

    Raises:
        BenchmarkError: rows or files that cannot be used.
    """
    inputs = DistinctInputs(benchmark.media_root)
    tasks = [_collect_task(task, inputs, reader) for task in benchmark.tasks]
    inputs.check_media()
    return inputs, tasks


def _collect_task(task: Task, inputs: DistinctInputs, reader: RowReader) -> TaskInputs:
    queries, pools, duplicates = [], [], 0
    repeated_answers, empty_candidates = [], []
    for number, row in enumerate(reader.read(task)):
        place = f"{task.name}, row {number}"
        parsed = parse_row(row, place)
        queries.append(inputs.add(parsed.query, place))
        candidates = [inputs.add(candidate, place) for candidate in parsed.candidates]
        pool = list(dict.fromkeys(candidates))  # keeps the order: the answer stays first
        pools.append(np.array(pool, dtype=np.int64))
        duplicates += len(candidates) - len(pool)
        if candidates.count(pool[0]) > 1:
            repeated_answers.append(number)
        if any(candidate.empty for candidate in parsed.candidates):
            empty_candidates.append(number)
    if not queries:
        raise BenchmarkError(f"{task.name} has no rows: complete the data, or leave the subset out.")
    _warn(task, repeated_answers, "the answer stands again among the wrong candidates; it is counted once")
    _warn(task, empty_candidates, "a wrong candidate has no text, picture or video; it is encoded as an empty text")
    return TaskInputs(task, np.array(queries, dtype=np.int64), pools, duplicates)


def _warn(task: Task, rows: Iterable[int], problem: str) -> None:
    rows = list(rows)
    if rows:
        named = ", ".join(map(str, rows[:ROWS_NAMED])) + (", …" if len(rows) > ROWS_NAMED else "")
        logger.warning("%s: in %d row(s) %s (row %s).", task.name, len(rows), problem, named)
