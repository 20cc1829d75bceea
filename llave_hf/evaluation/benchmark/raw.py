"""Raw inputs, which a format makes of a row: texts and paths that nobody has opened yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from llave_hf.model.media_pictures_llave import is_data_uri


class RawInput(NamedTuple):
    """One side of a row as it is written: text with its image mark, paths relative to the media folder.

    `stored` pictures came as bytes and lie in the picture store instead (see :mod:`.pictures`).
    """

    text: str
    images: tuple[str, ...]
    video: str
    stored: bool = False

    @property
    def empty(self) -> bool:
        """Nothing that could be encoded; white space is something (the published prompts are full of it)."""
        return not (self.text or self.images or self.video)

    def within(self, folder: str) -> RawInput:
        """The same with its paths in a folder of the media folder."""
        if self.stored or not (self.images or self.video):
            return self

        def inside(path: str) -> str:
            return path if not path or is_data_uri(path) else f"{folder}/{path}"

        return self._replace(images=tuple(map(inside, self.images)), video=inside(self.video))


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A query and its candidates, the answers first.

    Attributes:
        answers: how many of the candidates are answers.
        gains: grades of the answers, above 0; None: all are equally good.
        place: subset and row, for messages.
        sides: what the benchmark file calls the query and the candidates, to go after the place.
    """

    query: RawInput
    candidates: list[RawInput]
    answers: int = 1
    gains: tuple[float, ...] | None = None
    place: str = ""
    sides: tuple[str, str] = ("", "")


class TaskRows(NamedTuple):
    """A subset: its rows, and candidates of a global pool that no row need name, each with its place."""

    rows: Iterator[EvalRow]
    corpus: Iterable[tuple[RawInput, str]] = ()
