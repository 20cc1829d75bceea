from __future__ import annotations

from typing import Any

import pytest
from evaluation_helpers import make_row

from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.formats.mmeb import parse_row
from llave_hf.evaluation.benchmark.raw import RawInput


def test_row_becomes_a_query_and_candidates_with_the_answer_first() -> None:
    row = parse_row(make_row("q", ["a", "b"], image="q.png", target_images=["", "b.png"]), "S, row 3")
    assert row.query == RawInput("q", ("q.png",), "")
    assert row.candidates == [RawInput("a", (), ""), RawInput("b", ("b.png",), "")]


def test_several_pictures_and_videos_are_read() -> None:
    row = make_row("q", ["a", "b"], target_images=[["1.png", "2.png"], []])
    row |= {"qry_img_path": ["x.png", None, "y.png"], "qry_video_path": "v.mp4", "tgt_video_path": [None, "w.mp4"]}
    parsed = parse_row(row, "S, row 3")
    assert parsed.query == RawInput("q", ("x.png", "y.png"), "v.mp4")
    assert parsed.candidates == [RawInput("a", ("1.png", "2.png"), ""), RawInput("b", (), "w.mp4")]


def test_null_columns_are_empty() -> None:
    row = make_row("q", ["a"]) | {"qry_img_path": None, "tgt_img_path": None, "tgt_text": ["a", "b"]}
    assert parse_row(row, "S, row 3").candidates == [RawInput("a", (), ""), RawInput("b", (), "")]


def test_empty_wrong_candidate_is_kept() -> None:
    assert parse_row(make_row("q", ["a", ""]), "S, row 3").candidates[1].empty


@pytest.mark.parametrize("column", ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"])
def test_missing_column_is_named_with_those_that_are_there(column: str) -> None:
    row = make_row("q", ["a"])
    del row[column]
    with pytest.raises(BenchmarkError, match=f"S, row 3 lacks the column '{column}' .it has {', '.join(row)}."):
        parse_row(row, "S, row 3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tgt_text": []}, "tgt_text is empty"),
        ({"tgt_text": "right"}, "tgt_text must be a list .* not 'right'"),
        ({"tgt_text": None}, "tgt_text must be a list"),
        ({"tgt_text": ["a", 3]}, "tgt_text must be text, not 3"),
        ({"tgt_img_path": [""]}, "tgt_img_path has 1 entries, tgt_text 2"),
        ({"qry_text": 5}, "qry_text must be text, not 5"),
        ({"qry_text": ""}, "the query has no text, picture or video"),
        ({"tgt_text": ["", "b"]}, "the answer .candidate 0. has no text"),
    ],
)
def test_unusable_rows_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=f"S, row 3: {message}"):
        parse_row(make_row("q", ["a", "b"]) | change, "S, row 3")
