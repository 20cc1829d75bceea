"""A look at data as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .look import DataLook, ShownPair, TaskLook
from .pictures import PictureLook
from .prompts import Prompt
from .spread import Spread

TEXT_SHOWN = 300  # characters of a prompt
ROLES = {"query": "query", "positive": "positive", "negative": "negatives"}
HEADS = ("", "entries", "texts", "pictures", "videos", "empty", "min", "median", "95 %", "max")


def lines(look: DataLook) -> Iterator[str]:
    """The lines, without ends."""
    yield headline(look)
    yield f"Prompts: {look.prompts}."
    for remark in look.remarks:
        yield str(remark)
    if not look.remarks:
        yield "Nothing is wrong with the rows."
    for task in look.tasks:
        yield ""
        yield from _task(task)


def headline(look: DataLook) -> str:
    """How much there is, and how much of it was opened."""
    count = len(look.tasks)
    return f"{look.rows:,} rows of {count} task{'s' * (count != 1)}. {sampling(look)}"


def sampling(look: DataLook) -> str:
    """How much was looked at, in a sentence."""
    read = sum(task.read for task in look.tasks)
    rows = "All rows" if read >= look.rows else f"{read:,} rows"
    opened = f"{look.opened:,} of them, evenly spaced," if look.opened < read else "the same"
    return f"{rows} were read for texts and repeats, {opened} were opened for pictures and tokens."


def _task(task: TaskLook) -> Iterator[str]:
    weight = "" if task.weight == 1 else f", weight {task.weight:g}"
    files = task.files[0][0] if len(task.files) == 1 else f"{len(task.files)} files, {task.files[0][0]} the first"
    yield f"{task.name}: {task.rows:,} rows{weight} ({files})"
    yield from (f"  {line}" for line in _sides(task))
    repeats = task.repeats
    distinct = f"{repeats.queries:,} distinct queries, {repeats.documents:,} distinct documents"
    yield f"  {distinct}; {repeats.repeated:,} rows repeat another"
    if task.pictures.samples:
        yield f"  {picture_line(task.pictures)}"
    for pair in task.pairs:
        yield from (f"  {line}" for line in _pair(pair))


def _sides(task: TaskLook) -> Iterator[str]:
    """A table of the sides; characters of texts, and below them tokens where they were counted."""
    rows = [[*HEADS, "of"]]
    for side in task.sides:
        counts = (side.entries, side.texts, side.pictures, side.videos, side.empty)
        numbers = [ROLES[side.role], *(f"{count:,}" for count in counts)]
        rows.append([*numbers, *_spread(side.characters), "characters" if side.characters else ""])
        tokens = task.tokens.by_role.get(side.role)
        if tokens is not None:
            rows.append([""] * 6 + [*_spread(tokens), f"tokens, in {task.tokens.rows:,} rows"])
    return aligned(rows)


def _spread(spread: Spread | None) -> list[str]:
    if spread is None:
        return [""] * 4
    return [f"{number:,}" for number in (spread.least, spread.median, spread.most_95, spread.most)]


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of a table, the first and the last column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *numbers, last = row
        cells = [first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:-1], strict=True)), last]
        yield "  ".join(cells).rstrip()


def picture_line(look: PictureLook) -> str:
    """Sizes and modes of the pictures of a task in one line."""
    if not look.pictures:
        return f"none of {look.samples:,} samples with pictures or videos opens"
    width, height = look.side(0), look.side(1)
    counts = [f"{mode} ({count:,})" if len(look.modes) > 1 else mode for mode, count in look.modes.most_common()]
    if width is None or height is None or len(look.sizes) == 1:
        sizes = "all {} x {}".format(*next(iter(look.sizes)))
    else:
        sizes = f"{width.least:,} to {width.most:,} wide (median {width.median:,}) and "
        sizes += f"{height.least:,} to {height.most:,} high (median {height.median:,})"
    return f"{look.pictures:,} pictures opened, {sizes} pixels, mode {', '.join(counts)}"


def _pair(pair: ShownPair) -> Iterator[str]:
    yield f"row {pair.row}"
    for shown in pair.samples:
        said = f"({shown.fault})" if shown.prompt is None else user_turn(shown.prompt)
        files = [str(path) for path in (*shown.sample.images, shown.sample.video) if path is not None]
        beside = f"  [{', '.join(files)}]" if files else ""
        tokens = f"  {shown.prompt.tokens:,} tokens" if shown.prompt is not None and shown.prompt.tokens else ""
        yield f"  {shown.role:<9}{said}{beside}{tokens}"
    if pair.more_negatives:
        yield f"  and {pair.more_negatives:,} more negatives"


def user_turn(prompt: Prompt) -> str:
    """The marks and texts of a prompt in one line."""
    inside = Prompt(tuple(piece for piece in prompt.pieces if piece.kind in ("mark", "text")))
    text = str(inside).replace("\n", "\\n")
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}... ({len(text) - TEXT_SHOWN:,} more characters)"
