"""A look at training data before training: what they hold, what is wrong with them, what the model gets of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llave_hf.data.rows.tasks import TaskRows
from llave_hf.data.samples import Pair, Sample
from llave_hf.data.sources.downloads import missing_data
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.model.media_llave import MediaError
from llave_hf.runtime.progress import patient_bar

from .copies import Copies, find_copies
from .lengths import TokenLook, count_tokens, token_remarks
from .opening import OpenedTask, open_tasks
from .pictures import PictureLook, open_samples, picture_remarks
from .prompts import DefaultPrompts, ModelPrompts, Prompt
from .remarks import NOTE, PROBLEM, Remark
from .repeats import Repeats, repeat_remarks, repeats_of, repeats_of_pairs
from .sides import SideLook, look_at_sides
from .spread import evenly, in_runs
from .unread import listed, unread_files

ROWS = 1000  # of all tasks, that are opened
FEWEST = 20  # of a task
SHOWN = 3  # pairs of a task
SHOWN_NEGATIVES = 2  # of a pair


@dataclass(frozen=True)
class ShownSample:
    """A sample, as the row has it and as the model gets it; `fault` says why there is no prompt."""

    role: str
    sample: Sample
    prompt: Prompt | None
    fault: str | None = None


@dataclass(frozen=True)
class ShownPair:
    """One row of a task.

    Attributes:
        row: Its number in the subset.
        samples: Query, positive and the first of its negatives.
        more_negatives: How many are not shown.
    """

    row: int
    samples: tuple[ShownSample, ...]
    more_negatives: int


@dataclass(frozen=True)
class TaskLook:
    """What one task holds.

    Attributes:
        name: Of the task.
        files: That the rows stand in, and how many in each.
        rows: How many training would draw from.
        read: How many were read: all, or some shards of a stream.
        opened: How many of them were opened.
        tokens: Of every fourth of the opened rows; none without a model's processor.
    """

    name: str
    weight: float
    files: tuple[tuple[str, int], ...]
    rows: int
    read: int
    opened: int
    sides: tuple[SideLook, ...]
    repeats: Repeats
    pictures: PictureLook
    tokens: TokenLook
    unread: tuple[str, ...]
    pairs: tuple[ShownPair, ...]


@dataclass(frozen=True)
class DataLook:
    """What all tasks hold.

    Attributes:
        tasks: Those that could be opened.
        remarks: What is wrong or worth knowing, problems first.
        copies: Files of one content.
        prompts: Whose prompt the pairs are shown in.
    """

    tasks: tuple[TaskLook, ...]
    remarks: tuple[Remark, ...]
    copies: Copies
    prompts: str

    @property
    def rows(self) -> int:
        """Of all tasks."""
        return sum(task.rows for task in self.tasks)

    @property
    def opened(self) -> int:
        """Rows of all tasks whose pictures were opened."""
        return sum(task.opened for task in self.tasks)

    @property
    def problems(self) -> int:
        """How many remarks are problems."""
        return sum(remark.level == PROBLEM for remark in self.remarks)


def look_at(
    specs: Sequence[SourceSpec],
    *,
    rows: int | None = None,
    prompts: DefaultPrompts | ModelPrompts | None = None,
    streaming: bool = False,
    use_negatives: bool = True,
) -> DataLook:
    """Looks at training data.

    Args:
        specs: As [`read_specs`] gives them. Those whose data are not here are told of and left out.
        rows: How many rows of all tasks together are opened, evenly spaced, at least 20 of each task. Where pictures
            stand in the files of rows, neighbours are taken.
        prompts: What makes prompts, and counts tokens if it can.
        streaming: Whether to read some shards of each task instead of all rows.
        use_negatives: Whether training reads the rows' own negatives.

    Raises:
        ValueError: No task can be opened; the message says why of each.
    """
    missing = [one for one in missing_data(specs) if one.needed]
    there = [spec for spec in specs if not any(spec is other for one in missing for other in one.specs)]
    opened, found = open_tasks(there, streaming=streaming, use_negatives=use_negatives)
    remarks = [*(Remark(PROBLEM, "", str(one)) for one in missing), *found]
    if not opened:
        raise ValueError("\n".join(remark.text for remark in remarks))
    prompts = prompts or DefaultPrompts()
    each = max(FEWEST, (ROWS if rows is None else rows) // len(opened))
    tasks = []
    for task in patient_bar(opened, "tasks"):
        remarks += [Remark(PROBLEM, "", str(fault)) for fault in task.faults]
        looked, found = _look_at_task(task, each, prompts)
        tasks.append(looked)
        remarks += found
    copies = find_copies([part for task in opened for part in task.parts])
    if copies.copies:
        (first, second), *_ = copies.examples
        text = f"{copies.copies:,} of {copies.compared:,} files are copies of others, such as {second} of {first}"
        remarks.append(Remark(NOTE, "pictures", text + ": a copy of a document counts as its negative"))
    remarks += unread_files([task.subset for task in opened])
    remarks.sort(key=lambda remark: remark.level != PROBLEM)
    return DataLook(tuple(tasks), tuple(remarks), copies, prompts.origin)


def _look_at_task(
    task: OpenedTask, rows: int, prompts: DefaultPrompts | ModelPrompts
) -> tuple[TaskLook, list[Remark]]:
    stored = any(_holds_pictures(part) for part in task.parts)
    pairs, faults = _pairs(task, (in_runs(task.read, rows) if stored else evenly(task.read, rows)).tolist())
    repeats = repeats_of_pairs(pairs) if stored else repeats_of(task.parts)
    pictures = open_samples(pairs)
    if any(isinstance(fault, MediaError) for fault in task.faults):  # tells of all files that are missing
        pictures.broken = [one for one in pictures.broken if "does not exist" not in one]
    remarks = [Remark(PROBLEM, task.name, fault) for fault in faults[:1]]
    remarks += [*repeat_remarks(task.name, repeats), *picture_remarks(task.name, pictures)]
    if task.unread:
        remarks.append(Remark(NOTE, task.name, f"columns that are not read: {listed(task.unread)}"))
    first, _ = _pairs(task, range(min(SHOWN, task.read)))
    counted = evenly(len(pairs), max(FEWEST, len(pairs) // 4))  # a processor is slower than opening
    tokens = count_tokens([pairs[number] for number in counted.tolist()], prompts)
    remarks += token_remarks(task.name, tokens)
    looked = TaskLook(
        name=task.name,
        weight=task.subset.spec.weight,
        files=task.subset.files,
        rows=task.rows,
        read=task.read,
        opened=len(pairs),
        sides=tuple(look_at_sides(task.parts)),
        repeats=repeats,
        pictures=pictures,
        tokens=tokens,
        unread=task.unread,
        pairs=tuple(_shown(pair, prompts) for pair in first),
    )
    return looked, remarks


def _holds_pictures(part: TaskRows) -> bool:
    """Whether pictures stand in the files of rows, of which a group is read for one picture."""
    sides = (side for side in (part.query, part.positive, part.negatives) if side is not None)
    return any(len(side.files()[0]) < len(side.paths()[0]) for side in sides)


def _pairs(task: OpenedTask, indices: Sequence[int]) -> tuple[list[Pair], list[str]]:
    """Rows by their place among those that were read, and what is wrong with those that are none."""
    pairs, faults = [], []
    start, parts = 0, iter(task.parts)
    part = next(parts)
    for index in indices:
        while index >= start + len(part):
            start, part = start + len(part), next(parts)
        try:
            pairs.append(part.pair(index - start))
        except ValueError as error:
            faults.append(f"{task.subset.locate(int(part.rows[index - start]))}: {error}")
    return pairs, faults


def _shown(pair: Pair, prompts: DefaultPrompts | ModelPrompts) -> ShownPair:
    roles = [("query", pair.query), ("positive", pair.positive)]
    roles += [("negative", negative) for negative in pair.negatives[:SHOWN_NEGATIVES]]
    samples = []
    for role, sample in roles:
        try:
            samples.append(ShownSample(role, sample, prompts.of(sample)))
        except (ValueError, OSError) as error:
            samples.append(ShownSample(role, sample, None, str(error)))
    return ShownPair(pair.row, tuple(samples), max(0, len(pair.negatives) - SHOWN_NEGATIVES))
