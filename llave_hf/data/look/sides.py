"""Queries, documents and negatives of a task in numbers; no file is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.rows.columns import SideColumns
from llave_hf.data.rows.contents import plain_texts
from llave_hf.data.rows.tasks import TaskRows

from .spread import Spread

ROLES = ("query", "positive", "negative")
BINS = 40  # of a histogram
WIDEST = 1e6  # characters that the last bin begins below


@dataclass(frozen=True)
class SideLook:
    """One role of a task.

    Attributes:
        entries: How many there are: rows, or negatives of all rows.
        texts, pictures, videos: Entries that have a text, a picture, a video.
        empty: Entries that have nothing.
        characters: Of the texts, without the marks of pictures.
        histogram: How many texts have so many characters, in bins of equal width of their logarithm.
        distinct_texts: How many different texts.
        commonest: The text that stands most often, and how often.
    """

    role: str
    entries: int
    texts: int
    pictures: int
    videos: int
    empty: int
    characters: Spread | None
    histogram: tuple[int, ...]
    distinct_texts: int
    commonest: tuple[str, int] | None


def look_at_sides(tasks: Sequence[TaskRows]) -> list[SideLook]:
    """Of some parts of one task; negatives stand here only where a row has one."""
    found = [
        _look(role, sides)
        for role, sides in zip(
            ROLES,
            (
                [task.query for task in tasks],
                [task.positive for task in tasks],
                [task.negatives for task in tasks if task.negatives is not None],
            ),
            strict=True,
        )
    ]
    return [side for side in found if side.role != "negative" or side.entries]


def _look(role: str, sides: Sequence[SideColumns]) -> SideLook:
    texts = pa.chunked_array([plain_texts(side) for side in sides], pa.large_string())
    lengths = pc.utf8_length(texts).to_numpy().astype(np.int64)
    given = lengths[pc.not_equal(pc.utf8_trim_whitespace(texts), "").to_numpy()]
    counted = pc.value_counts(texts)
    most = pc.index(counted.field("counts"), pc.max(counted.field("counts"))).as_py() if len(counted) else -1
    commonest = counted[most].as_py() if most >= 0 else None
    return SideLook(
        role=role,
        entries=len(texts),
        texts=len(given),
        pictures=sum(int((side.num_images() > 0).sum()) for side in sides),
        videos=sum(int(side.has_video().sum()) for side in sides),
        empty=sum(int(side.empty().sum()) for side in sides),
        characters=Spread.of(given),
        histogram=_histogram(given),
        distinct_texts=len(counted),
        commonest=(commonest["values"], commonest["counts"]) if commonest and commonest["counts"] > 1 else None,
    )


def _histogram(lengths: np.ndarray) -> tuple[int, ...]:
    edges = np.geomspace(1, WIDEST, BINS + 1)
    return tuple(np.histogram(np.clip(lengths, 1, WIDEST), edges)[0].tolist())
