from __future__ import annotations

from typing import Any

import pytest

from llave_hf.data.described.fields import FieldError
from llave_hf.data.described.templates import Template
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.formats.sides import side_from
from llave_hf.evaluation.benchmark.raw import RawInput

ROW = {"a": " x ", "n": 7, "path": "clips/ego.1/v_2.5.mp4", "list": ["one", "two "], "empty": [], "none": None}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no columns", "no columns"),
        ("<{a}>{{{n}}}", "< x >{7}"),
        ("{list[1]}!", "two !"),
        ("{path:stem}", "v_2.5"),
        ("{path:flat}", "clips_ego.1_v_2.5"),
        ("{list:lines}", "one\ntwo "),
        ("{list:words}", "one two "),
        ("{list:lettered}", "(A) one\n(B) two"),
        ("{a:unlettered}", "x"),
    ],
)
def test_columns_are_filled_in(template: str, text: str) -> None:
    assert Template(template, "w").fill(ROW, "S, row 0") == text


@pytest.mark.parametrize(
    ("option", "text"), [("A. A dog.", "A dog"), ("B. 3. Or 4.", "3. Or 4"), ("no letter.", "no letter"), ("C. ", "")]
)
def test_letters_are_taken_off(option: str, text: str) -> None:
    assert Template("{o:unlettered}", "w").fill({"o": option}, "S, row 0") == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{b}", "S, row 0 lacks the column 'b' .it has a, n, path"),
        ("{none}", "S, row 0: none must be text or a number, not None"),
        ("{list}", "S, row 0: list must be text or a number"),
        ("{a:lines}", "S, row 0: a must be a list of texts, not ' x '"),
        ("{empty[0]}", "S, row 0: empty.0. cannot be read"),
    ],
)
def test_rows_that_do_not_fit_are_named(template: str, message: str) -> None:
    with pytest.raises(FieldError, match=f"^{message}"):
        Template(template, "w").fill(ROW, "S, row 0")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{a", r"b.yaml: query: '{a': .*; write \{\{ for a brace"),
        ("{a:steam}", "b.yaml: query: there is no {a:steam}. Did you mean 'stem'"),
        ("{a!r}", "b.yaml: query: {a} must be a column"),
        ("{a.b}", "b.yaml: query: {a.b} must be a column"),
        ("{}", "b.yaml: query: {} must be a column"),
    ],
)
def test_faults_of_the_template_are_named(template: str, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Template(template, "b.yaml: query")


def test_side_has_text_picture_and_video() -> None:
    assert side_from("q {a}", "w").fill(ROW, "p") == RawInput("q  x ", (), "")
    side = side_from({"text": "t", "image": "{n}.png", "video": "{path}"}, "w")
    assert side.fill(ROW, "p") == RawInput("t", ("7.png",), "clips/ego.1/v_2.5.mp4")
    with pytest.raises(BenchmarkError, match="p has no text, picture or video"):
        side_from("{a}", "w").fill({"a": ""}, "p")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"txt": "t"}, "w: there is no key 'txt'. Did you mean 'text'"),
        (["t"], "w must be text, not"),
        ({"case": "path", ".mp4": "x"}, "w lacks 'other'"),
        ({"case": "path", "other": {"images": "x"}}, "w: other: there is no key 'images'"),
    ],
)
def test_faults_of_a_side_are_named(value: Any, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        side_from(value, "w")
