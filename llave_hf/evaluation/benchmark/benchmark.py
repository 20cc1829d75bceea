"""A benchmark as data: its subsets (tasks), what each measures, and where their rows lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from .fields import BenchmarkError, nearest
from .formats import Format, MmebFormat

Entry = TypeVar("Entry")

MMEB = MmebFormat()
# of `distribution`; the means that results have besides those of meta-tasks and modalities
DISTRIBUTIONS = ("in", "out")


@dataclass(frozen=True, slots=True)
class Task:
    """One subset of a benchmark.

    Attributes:
        distribution: in, out or none.
        format: the layout of its rows.
        modality: a group of subsets with a mean of its own, or None.
        source: a Hub id or a folder that holds this subset alone; None: the benchmark's.
        revision: of its own source.
        split: None: the benchmark's.
        subset: configurations of a Hub data set; none: the subset's name, or the only one of its own source.
        media: the folder of its pictures and videos within the benchmark's, "" for that itself.
        limit: how many of its first rows count; None: all.
    """

    name: str
    meta_task: str
    distribution: str
    metric: str = "precision_at_1"
    pool: str = "local"
    format: Format = MMEB
    modality: str | None = None
    source: str | Path | None = None
    revision: str | None = None
    split: str | None = None
    subset: tuple[str, ...] = ()
    media: str = ""
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark file, with its places resolved.

    Attributes:
        source: a Hub id, or the folder that holds the subsets' rows.
        media_root: what picture paths are relative to; None where it must be given as `data`.
        data: the folder given as `data`; it may hold the rows of a Hub source.
        revision: of the Hub data set; None: whatever is newest when it is read.
        num_frames: how many frames of a video are looked at; None: as many as without a benchmark.
        leaderboard: whether results are also written in MMEB-V2's form.
    """

    name: str
    source: str | Path
    tasks: tuple[Task, ...]
    media_root: Path | None = None
    data: Path | None = None
    split: str = "test"
    revision: str | None = None
    num_frames: int | None = None
    leaderboard: bool = False

    def select(self, subsets: Iterable[str] | None) -> Benchmark:
        """The benchmark with only these subsets, in the file's order; None keeps all.

        Raises:
            BenchmarkError: a name is none of the subsets.
        """
        if subsets is None:
            return self
        wanted = list(dict.fromkeys(subsets))
        names = [task.name for task in self.tasks]
        for name in wanted:
            if name not in names:
                raise BenchmarkError(f"Benchmark {self.name} has no subset {name!r}.{nearest(name, names)}")
        if not wanted:
            raise BenchmarkError(f"No subset of benchmark {self.name} was chosen: name at least one of {names}.")
        return replace(self, tasks=tuple(task for task in self.tasks if task.name in wanted))

    def groups(self) -> dict[str, list[Task]]:
        """The subsets of each mean that results will have, by its name."""
        return grouped(self.tasks, lambda task: task)


def grouped(entries: Iterable[Entry], task_of: Callable[[Entry], Task]) -> dict[str, list[Entry]]:
    """Entries of subsets by meta-task, modality and distribution, and all; a group without any is left out."""
    listed = list(entries)
    groups: dict[str, list[Entry]] = {}
    for entry in listed:
        groups.setdefault(task_of(entry).meta_task, []).append(entry)
    for entry in listed:
        if modality := task_of(entry).modality:
            groups.setdefault(modality, []).append(entry)
    for distribution in DISTRIBUTIONS:
        groups[distribution] = [entry for entry in listed if task_of(entry).distribution == distribution]
    groups["overall"] = listed
    return {name: members for name, members in groups.items() if members}
