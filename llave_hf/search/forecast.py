"""How long indexing will take: a few files of each kind are indexed and timed, the others counted by their tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llave_hf.data.media_files import File
from llave_hf.encoding.plan import estimate_tokens
from llave_hf.model.processing_llave import LlaveProcessor

from .files import kind_of

_NAMES = {"image": "picture", "video": "video", "text": "text"}
SAMPLED = 64  # files of a kind whose headers are read for their size
GROUP, MANY = 16, 64  # files of a kind: timed together where one is quick, if there are many
TRIED = 3  # files of a kind, until one can be used


class Forecast:
    """What is to be indexed.

    Args:
        root: The folder.
        files: Those that are new or have changed.
        processor: The model's; what is no [`LlaveProcessor`] leaves a kind's files alike.

    Attributes:
        candidates: Of each kind a few files of middling size; the first of them that can be used is the one to time.
    """

    def __init__(self, root: Path, files: Sequence[File], processor: Any = None) -> None:
        self._root = root
        self._processor = processor if isinstance(processor, LlaveProcessor) else None
        self._kinds: dict[str, list[File]] = defaultdict(list)
        for file in files:
            self._kinds[self._kind(file)].append(file)
        self.candidates = {kind: _middling(of) for kind, of in self._kinds.items()}

    def _kind(self, file: File) -> str:
        try:
            return kind_of(self._root / file.path)
        except (OSError, SyntaxError):  # a broken GIF; indexing it will say so
            return "image"

    def group(self, kind: str, without: Collection[str]) -> list[File]:
        """`GROUP` files of a kind, spread over them all; none where there are few."""
        files = [file for file in self._kinds[kind] if file.path not in without]
        return files[:: len(files) // GROUP][:GROUP] if len(files) >= MANY else []

    def contents(self) -> str:
        """`3 pictures, 1 video, 2 texts`."""
        counts = {kind: len(self._kinds[kind]) for kind in _NAMES if kind in self._kinds}
        return ", ".join(f"{count:,} {_NAMES[kind]}{'s' * (count != 1)}" for kind, count in counts.items())

    def seconds(self, timed: Mapping[str, tuple[File, float]]) -> float:
        """About how long all files but the timed ones will take.

        Args:
            timed: Of each kind a file and the seconds that it took; a kind without one counts for nothing.
        """
        total = 0.0
        for kind, (first, seconds) in timed.items():
            files = self._kinds[kind]
            spread = files[:: max(1, len(files) // SAMPLED)]
            mean = sum(self._weight(kind, file) for file in spread) / len(spread)
            total += seconds * mean / self._weight(kind, first) * (len(files) - 1)
        return total

    def _weight(self, kind: str, file: File) -> float:
        """What a file's time is proportional to."""
        if kind == "text":
            return file.size + 1.0
        if kind == "video" or self._processor is None:
            return 1.0
        return float(estimate_tokens({"image": str(self._root / file.path)}, self._processor))


def _middling(files: Sequence[File]) -> list[File]:
    ordered = sorted(files, key=lambda file: file.size)
    middle = len(ordered) // 2
    return ordered[middle : middle + TRIED]


def spoken(seconds: float) -> str:
    """`40 seconds`, `12 minutes`, `3.5 hours`, `2.1 days`: as exact as such an estimate is."""
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'s' * (whole != 1)}"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.2g} hours"
    return f"{seconds / 86400:.2g} days"
