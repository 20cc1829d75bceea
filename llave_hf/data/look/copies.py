"""Files of pictures that hold the same bytes under several names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.rows.tasks import TaskRows
from llave_hf.encoding.content_keys import file_digest

from .spread import evenly

FILES = 20_000  # of all tasks, whose sizes are asked for
BYTES = 1 << 29  # of files of one size, that are read


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        files: Different files that rows name.
        compared: Of these, how many were compared.
        copies: Files whose bytes stand in another one as well, but for one of each kind.
        examples: Pairs of such files, as the rows have them.
    """

    files: int
    compared: int
    copies: int
    examples: tuple[tuple[str, str], ...]


def find_copies(tasks: Sequence[TaskRows], examples: int = 3) -> Copies:
    """Compares the files of all tasks; only those of one size are read."""
    found = _files(tasks)
    chosen = [found[number] for number in evenly(len(found), FILES).tolist()]
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    compared = 0
    for root, path in chosen:
        try:
            stat = os.stat(os.path.join(root, path))
        except (OSError, ValueError):  # missing: a fault of its row, told elsewhere
            continue
        by_size[stat.st_size].append((root, path))
        compared += 1
    left, pairs, copies = BYTES, [], 0
    for size, files in sorted(by_size.items()):
        if len(files) < 2:
            continue
        left -= size * len(files)
        if left < 0:
            compared -= len(files)
            continue
        first: dict[bytes, str] = {}
        for root, path in files:
            full = os.path.join(root, path)
            if os.path.isdir(full):
                continue
            other = first.setdefault(file_digest(full), path)
            if other != path:
                copies += 1
                pairs.append((other, path))
    return Copies(len(found), compared, copies, tuple(pairs[:examples]))


def _files(tasks: Sequence[TaskRows]) -> list[tuple[str, str]]:
    """Media root and path of each distinct file, once."""
    by_root: dict[str, list[pa.Array]] = defaultdict(list)
    for task in tasks:
        for side in (task.query, task.positive, task.negatives):
            if side is not None and task.media_root is not None:
                by_root[task.media_root].append(side.files()[0])
    return [
        (root, path) for root, arrays in by_root.items() for path in pc.unique(pa.chunked_array(arrays)).to_pylist()
    ]
