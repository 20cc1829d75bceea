"""`format: instruct`: MMEB's 36 subsets with the instruction apart (ziyjiang/MMEB_Test_Instruct).

Columns `qry_inst, qry_text, qry_img_path, tgt_inst, tgt_text[], tgt_img_path[]`. `prompt` says how MMEB-V2 puts them
together, so that the text is MMEB's first version's, to the white space (M: the picture's mark, I: the instruction):

    image_to_text    (classification, image to caption)     M I text NEWLINE -> tgt_text
    question         (visual questions)                     M NEWLINE I text NEWLINE -> tgt_text
    text_to_image                                           I text NEWLINE -> M I [caption] NEWLINE, picture
    image_to_image   (also composed, and grounding)         M NEWLINE I text NEWLINE -> M I [caption NEWLINE], picture

A space before a newline goes away. `query_end` is added to queries (VisDial has one more newline).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llave_hf.evaluation.benchmark.fields import BenchmarkError, Settings
from llave_hf.evaluation.benchmark.raw import TaskRows

from .base import Format, Tables
from .mmeb import parse_row

MARK = "<|image_1|>"
COLUMNS = ("qry_inst", "qry_text", "qry_img_path", "tgt_inst", "tgt_text", "tgt_img_path")

Row = Mapping[str, Any]


def _marked(instruction: str, text: str = "") -> str:
    return f"{MARK} {instruction}{' ' + text if text else ''}".replace(" \n", "\n")


def _image_to_text(row: Row) -> dict[str, Any]:
    query = _marked(row["qry_inst"].replace(MARK, ""), row["qry_text"]) + "\n"
    return {"qry_text": query, "qry_img_path": row["qry_img_path"], "tgt_text": row["tgt_text"], "tgt_img_path": None}


def _question(row: Row) -> dict[str, Any]:
    return _image_to_text({**row, "qry_inst": "\n" + row["qry_inst"].replace(MARK, "").strip()})


def _text_to_image(row: Row) -> dict[str, Any]:
    query = f"{row['qry_inst']} {row['qry_text']}\n"
    return {"qry_text": query, "qry_img_path": "", **_picture_targets(row, end="\n")}


def _image_to_image(row: Row) -> dict[str, Any]:
    return _question(row) | _picture_targets(row, end="")


def _picture_targets(row: Row, end: str) -> dict[str, Any]:
    """Pictures with the instruction and, where the first candidate has a caption, with captions and a newline."""
    instruction = row["tgt_inst"].replace(MARK, "")
    captions, pictures = row["tgt_text"], row["tgt_img_path"]
    if captions and captions[0].strip():
        written = [_marked(f"{instruction} {caption}") + "\n" for caption in captions]
    else:
        written = [_marked(instruction) + end] * len(pictures)
    return {"tgt_text": written, "tgt_img_path": pictures}


PROMPTS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "image_to_text": _image_to_text,
    "question": _question,
    "text_to_image": _text_to_image,
    "image_to_image": _image_to_image,
}


@dataclass(frozen=True)
class InstructFormat(Format):
    """One of the four prompts, and what ends a query."""

    prompt: str
    query_end: str = ""

    keys = ("prompt", "query_end")
    required = ("prompt",)

    @classmethod
    def from_settings(cls, settings: Settings) -> InstructFormat:
        """From `prompt` and `query_end`."""
        return cls(settings.choice("prompt", PROMPTS, ""), settings.text("query_end") or "")

    def read(self, tables: Tables) -> TaskRows:
        """The rows in MMEB's own schema."""
        return TaskRows(parse_row(self._joined(row, place), place) for place, row in tables.rows())

    def _joined(self, row: Row, place: str) -> dict[str, Any]:
        for column in COLUMNS:
            if column not in row:
                raise BenchmarkError(f"{place} lacks the column {column!r} (it has {', '.join(row)}).")
        lists = ("tgt_text",) if PROMPTS[self.prompt] in (_image_to_text, _question) else ("tgt_text", "tgt_img_path")
        for columns, kind, called in ((("qry_inst", "qry_text", "tgt_inst"), str, "text"), (lists, list, "a list")):
            for column in columns:
                if not isinstance(row[column], kind):
                    raise BenchmarkError(f"{place}: {column} must be {called}, not {row[column]!r:.80}.")
        joined = PROMPTS[self.prompt](row)
        return joined | {"qry_text": joined["qry_text"] + self.query_end}
