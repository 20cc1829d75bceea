"""Rows that say the same: equal pairs, queries and documents, and documents that stand on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llave_hf.data.rows.contents import content_codes
from llave_hf.data.rows.tasks import TaskRows
from llave_hf.data.samples import Pair
from llave_hf.model.media_llave import MediaError

from .remarks import NOTE, Remark


@dataclass(frozen=True)
class Repeats:
    """Counts over some rows of a task.

    Attributes:
        rows: Looked at.
        repeated: Rows whose query and document both stand in an earlier row.
        queries, documents: Distinct ones.
        same_sides: Rows whose query is their document.
        answer_as_negative: Rows with their document among their own negatives.
    """

    rows: int
    repeated: int
    queries: int
    documents: int
    same_sides: int = 0
    answer_as_negative: int = 0


def count_repeats(queries: Sequence[int] | np.ndarray, documents: Sequence[int] | np.ndarray) -> Repeats:
    """Counts from numbers that are equal where contents are: `(n,)` of each row's query and document."""
    distinct_queries, query = np.unique(np.asarray(queries), return_inverse=True)
    distinct_documents, document = np.unique(np.asarray(documents), return_inverse=True)
    pairs = np.unique(query * max(len(distinct_documents), 1) + document)
    return Repeats(len(query), len(query) - len(pairs), len(distinct_queries), len(distinct_documents))


def repeats_of(tasks: Sequence[TaskRows]) -> Repeats:
    """Of all rows of some parts of one task, and of their own negatives."""
    rows = [len(task) for task in tasks]
    sides = [(task.query, task.media_root) for task in tasks] + [(task.positive, task.media_root) for task in tasks]
    with_negatives = [task for task in tasks if task.negatives is not None]
    sides += [(task.negatives, task.media_root) for task in with_negatives if task.negatives is not None]
    codes = content_codes(sides)
    queries, documents, negatives = np.split(codes, [sum(rows), 2 * sum(rows)])
    owners = np.concatenate(
        [np.zeros(0, np.int64)]
        + [
            start + np.repeat(np.arange(size), np.diff(task.negative_offsets))
            for task, size, start in zip(tasks, rows, np.cumsum([0, *rows[:-1]]), strict=True)
            if task.negatives is not None
        ]
    )
    counts = count_repeats(queries, documents)
    wrong = owners[documents[owners] == negatives]
    return replace(
        counts,
        same_sides=int((queries == documents).sum()),
        answer_as_negative=len(np.unique(wrong)),
    )


def repeats_of_pairs(pairs: Iterable[Pair]) -> Repeats:
    """Of some pairs, by what their pictures hold: those that stand in a file of rows are read for it.

    Pairs whose pictures cannot be read are left out.
    """
    keys = []
    for pair in pairs:
        try:
            keys.append((pair.query.key(), pair.positive.key(), {sample.key() for sample in pair.negatives}))
        except MediaError:  # told of when pictures are opened
            continue
    counts = count_repeats([query for query, _, _ in keys], [document for _, document, _ in keys])
    return replace(
        counts,
        same_sides=sum(query == document for query, document, _ in keys),
        answer_as_negative=sum(document in negatives for _, document, negatives in keys),
    )


def repeat_remarks(name: str, repeats: Repeats) -> Iterator[Remark]:
    """What is worth saying of them."""
    if repeats.repeated:
        yield Remark(NOTE, name, f"{repeats.repeated:,} of {repeats.rows:,} rows looked at repeat another row")
    if repeats.documents < repeats.rows / 2:
        text = f"{repeats.documents:,} distinct documents in {repeats.rows:,} rows; "
        yield Remark(NOTE, name, text + "equal ones are no negatives of each other")
    if repeats.same_sides:
        yield Remark(NOTE, name, f"{repeats.same_sides:,} rows have the same content as query and as document")
    if repeats.answer_as_negative:
        text = (
            f"{repeats.answer_as_negative:,} rows have their own document among their negatives, where it is left out"
        )
        yield Remark(NOTE, name, text)
