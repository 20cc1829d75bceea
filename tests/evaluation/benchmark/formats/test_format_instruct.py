"""Prompts of MMEB_Test_Instruct, to the byte: the expected texts were worked out by hand from VLM2Vec-V2's parsers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmeb_v2_data import MARK, instruct_row, read_rows, write_rows

from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.raw import EvalRow, RawInput


def read(tmp_path: Path, name: str, **changes: Any) -> EvalRow:
    write_rows(tmp_path, name, [instruct_row(**changes)])
    return read_rows(tmp_path, name, "mmeb-instruct")[0]


def test_classification_keeps_the_instruction_after_the_mark(tmp_path: Path) -> None:
    row = read(tmp_path, "ImageNet-1K", qry_inst=f"{MARK}\nRepresent the image.\n", qry_text="It is \nold")
    assert row.query == RawInput(f"{MARK}\nRepresent the image.\n It is\nold\n", ("Set/q.png",), "")
    assert row.candidates == [RawInput("tabby cat", (), ""), RawInput("dog", (), "")]


def test_a_space_before_the_instruction_stays(tmp_path: Path) -> None:
    row = read(tmp_path, "MSCOCO_i2t", qry_inst=f"{MARK} Find a caption.")
    assert row.query.text == f"{MARK}  Find a caption.\n"


def test_question_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    row = read(tmp_path, "OK-VQA", qry_inst=f"{MARK} Answer the question: \n", qry_text="What is it? ")
    assert row.query.text == f"{MARK}\nAnswer the question: What is it? \n"


@pytest.mark.parametrize(("name", "end"), [("MSCOCO_t2i", "\n"), ("VisDial", "\n\n")])
def test_text_finds_a_picture(tmp_path: Path, name: str, end: str) -> None:
    row = read(
        tmp_path,
        name,
        qry_inst="Find the image:",
        qry_text="a dog",
        qry_img_path="",
        tgt_inst=f"{MARK}\nRepresent the given image.",
        tgt_text=["", ""],
        tgt_img_path=["Set/a.png", "Set/b.png"],
    )
    assert row.query == RawInput(f"Find the image: a dog{end}", (), "")
    target = f"{MARK}\nRepresent the given image.\n"
    assert row.candidates == [RawInput(target, ("Set/a.png",), ""), RawInput(target, ("Set/b.png",), "")]


def test_text_finds_a_picture_with_its_caption(tmp_path: Path) -> None:
    row = read(
        tmp_path,
        "WebQA",
        qry_inst="Find a page:",
        qry_text="who?",
        qry_img_path="",
        tgt_inst=f"{MARK}\nRepresent the page:",
        tgt_text=["She", "He "],
        tgt_img_path=["Set/a.png", "Set/b.png"],
    )
    assert [candidate.text for candidate in row.candidates] == [
        f"{MARK}\nRepresent the page: She\n",
        f"{MARK}\nRepresent the page: He \n",
    ]


def test_picture_finds_a_picture(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "qry_inst": f"{MARK} Find a similar image. ",
        "qry_text": "in red",
        "tgt_inst": f"{MARK}\nRepresent the given image.",
        "tgt_text": ["", ""],
        "tgt_img_path": ["Set/a.png", "Set/b.png"],
    }
    row = read(tmp_path, "CIRR", **changes)
    assert row.query == RawInput(f"{MARK}\nFind a similar image. in red\n", ("Set/q.png",), "")
    assert row.candidates[0] == RawInput(f"{MARK}\nRepresent the given image.", ("Set/a.png",), "")
    captioned = read(tmp_path, "RefCOCO-Matching", **changes | {"tgt_text": ['"the left one"', '"the right one"']})
    assert captioned.candidates[1].text == f'{MARK}\nRepresent the given image. "the right one"\n'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qry_inst": None}, "qry_inst must be text, not None"),
        ({"tgt_text": None}, "tgt_text must be a list, not None"),
        ({"tgt_img_path": "a.png"}, "tgt_img_path must be a list, not 'a.png'"),
        ({"tgt_img_path": ["a.png"], "tgt_text": ["x", "y"]}, "tgt_img_path has 1 entries, tgt_text 2"),
    ],
)
def test_unusable_rows_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=f"^CIRR, row 0: {message}"):
        read(tmp_path, "CIRR", **changes)


def test_missing_column_is_named(tmp_path: Path) -> None:
    row = instruct_row()
    del row["tgt_inst"]
    write_rows(tmp_path, "CIRR", [row])
    with pytest.raises(BenchmarkError, match=r"^CIRR, row 0 lacks the column 'tgt_inst'"):
        read_rows(tmp_path, "CIRR", "mmeb-instruct")
