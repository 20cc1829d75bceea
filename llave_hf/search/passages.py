"""Text files as passages: whole where they are short, else cut where the author paused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PASSAGE_CHARACTERS = 1000
MAX_TEXT_BYTES = 64 << 20
# Where a passage may end, the best first: after an empty line, a line, a sentence, a word.
_PAUSES = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?…。!?])\s*"), re.compile(r"\s"))


@dataclass(frozen=True)
class Passage:
    """`text` is what stands in the file from character `start` up to `end`."""

    text: str
    start: int
    end: int


def read_passages(path: Path) -> list[Passage]:
    """The passages of a UTF-8 file.

    Raises:
        ValueError: The file is too large, not UTF-8, or holds nothing but white space.
    """
    if (size := path.stat().st_size) > MAX_TEXT_BYTES:
        raise ValueError(f"{path} has {size >> 20} MiB; a text may have {MAX_TEXT_BYTES >> 20}: split it.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error
    passages = split_passages(text)
    if not passages:
        raise ValueError(f"{path} holds no text; write something or remove it.")
    return passages


def split_passages(text: str, limit: int = PASSAGE_CHARACTERS) -> list[Passage]:
    """Passages of at most `limit` characters, in order, that leave out nothing but white space between them.

    Each is as long as it can be and ends, in this order, after an empty line, a line, a sentence or a word, as long as
    it keeps at least half the limit; only a word longer than that is cut.
    """
    passages = []
    start = _skip_space(text, 0)
    while start < len(text):
        end = len(text) if len(text) - start <= limit else _end(text, start, limit)
        content = text[start:end].rstrip()
        passages.append(Passage(content, start, start + len(content)))
        start = _skip_space(text, end)
    return passages


def _end(text: str, start: int, limit: int) -> int:
    for pause in _PAUSES:
        ends = [
            match.end() for match in pause.finditer(text, start + limit // 2, start + limit) if match.end() > start
        ]
        if ends:
            return ends[-1]
    return start + limit


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start
