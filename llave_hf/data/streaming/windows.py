"""Plans batches from the rows that a stream holds in memory: shuffled here, then planned as indexed rows are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llave_hf.data.batches.groups import plan_groups, swap_groups_apart
from llave_hf.data.batches.mix import swap_repeats_apart
from llave_hf.data.batches.repeats import plan_batches, repeating_batches

from .tasks import StreamedRow

_BLOCK = 1024  # rows of a mixed stream that are drawn together


@dataclass
class Window:
    """Some rows of one stream, and what follows them.

    Attributes:
        stream: The rows to come.
        share: How many of its rows a global batch takes.
        rows: Those in memory.
        unit: G, rows of a group; they stand together. 1: there are no groups.
    """

    stream: Iterator[StreamedRow]
    share: int
    rows: list[StreamedRow]
    unit: int = 1

    def fill(self, size: int, order: np.random.Generator) -> None:
        """Reads on until there are `size` rows or no more, whole groups, and shuffles them."""
        self.rows += itertools.islice(self.stream, size // self.unit * self.unit - len(self.rows))
        shuffled = order.permutation(len(self.rows) // self.unit)[:, None] * self.unit + np.arange(self.unit)
        self.rows = [self.rows[place] for place in shuffled.ravel().tolist()]

    def remove(self, places: np.ndarray) -> None:
        """Forgets the rows at some places."""
        gone = set(places.tolist())
        self.rows = [row for place, row in enumerate(self.rows) if place not in gone]


def planned_batches(
    windows: Sequence[Window], batches: int, *, size: int, order: np.random.Generator, avoid_repeats: bool
) -> Iterator[tuple[list[StreamedRow], bool]]:
    """Global batches, and whether each repeats a query or a document.

    As many batches as the windows hold are planned at once; half of them are given, those without repeats first, then
    the windows are filled again. What has to repeat so waits for other rows, as long as there are any.

    Args:
        windows: Where each batch takes its rows.
        batches: How many to give; the streams must have their rows.
        size: How many rows a window holds.
        order: Of the shuffles.
        avoid_repeats: Whether repeats are kept apart; else the second part of each result is False.
    """
    while batches:
        for window in windows:
            window.fill(size, order)
        plan, repeats = _plan(windows, avoid_repeats)
        ready = min(len(plan) // 2, int((~repeats).sum())) or 1
        if len(plan) >= batches:  # no row is to come that could keep apart what repeats
            ready = batches
        first_free = np.argsort(repeats, kind="stable")[:ready]
        rows = [row for window in windows for row in window.rows]
        for number in first_free.tolist():
            yield [rows[place] for place in plan[number].tolist()], bool(repeats[number])
        used = plan[first_free].ravel()
        start = 0
        for window in windows:
            stop = start + len(window.rows)
            window.remove(used[(used >= start) & (used < stop)] - start)
            start = stop
        batches -= ready


def _plan(windows: Sequence[Window], avoid_repeats: bool) -> tuple[np.ndarray, np.ndarray]:
    """`(batches, N)` places in the rows of all windows, and which batches repeat something."""
    rows = [row for window in windows for row in window.rows]
    count = min(len(window.rows) // window.share for window in windows)
    starts = np.cumsum([0, *(len(window.rows) for window in windows)]).tolist()
    if not avoid_repeats:
        parts = [
            start + np.arange(count * window.share).reshape(count, window.share)
            for start, window in zip(starts, windows, strict=False)
        ]
        return np.concatenate(parts, axis=1), np.zeros(count, dtype=bool)
    queries = np.unique([row.query for row in rows], return_inverse=True)[1]
    documents = np.unique([row.document for row in rows], return_inverse=True)[1]
    parts = []
    for start, stop, window in zip(starts[:-1], starts[1:], windows, strict=True):
        own = queries[start:stop], documents[start:stop]
        if window.unit == 1:
            parts.append(start + plan_batches(*own, window.share, count))
        else:
            groups = np.arange(stop - start).reshape(-1, window.unit)
            parts.append(start + plan_groups(groups, window.share // window.unit, count, own))
    plan = np.concatenate(parts, axis=1)
    if len(windows) > 1:
        unit = windows[0].unit
        ends = np.cumsum([0, *(window.share // unit for window in windows)]).tolist()
        columns = [slice(*pair) for pair in itertools.pairwise(ends)]
        if unit == 1:
            plan = swap_repeats_apart(plan, columns, queries, documents)
        else:
            plan = swap_groups_apart(plan, unit, columns, (queries, documents))
    return plan, repeating_batches(plan, queries, documents)


def mixed(
    streams: Sequence[Iterator[StreamedRow]], counts: Sequence[int], order: np.random.Generator, unit: int = 1
) -> Iterator[StreamedRow]:
    """The rows of several streams as one, each row as likely to come next as any other.

    Args:
        streams: The streams.
        counts: How many rows each has.
        order: Of the draws.
        unit: G, rows of a group, which come one after the other.
    """
    left = np.array(counts) // unit
    while left.any():
        drawn = order.multivariate_hypergeometric(left, min(_BLOCK, int(left.sum())))
        left -= drawn
        for number in order.permutation(np.repeat(np.arange(len(left)), drawn)).tolist():
            yield from itertools.islice(streams[number], unit)
