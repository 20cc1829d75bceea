"""The layouts of rows that a benchmark file can name as `format`; a new one is a file here and a line below."""

from __future__ import annotations

from .base import Format, Tables
from .beir import BeirFormat
from .instruct import InstructFormat
from .lists import ListsFormat
from .mmeb import MmebFormat
from .moments import MomentsFormat
from .options import OptionsFormat
from .pairs import PairsFormat

FORMATS: dict[str, type[Format]] = {
    "mmeb": MmebFormat,
    "instruct": InstructFormat,
    "beir": BeirFormat,
    "pairs": PairsFormat,
    "options": OptionsFormat,
    "lists": ListsFormat,
    "moments": MomentsFormat,
}

__all__ = ["FORMATS", "Format", "MmebFormat", "Tables"]
