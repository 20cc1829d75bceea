"""Columns of training rows by description: the templates of benchmark files, filled for all rows at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llave_hf.data import load_pairs, stream_pairs
from llave_hf.data.described.sides import description_from
from llave_hf.data.described.templates import Template
from llave_hf.data.rows import known, list_texts
from llave_hf.data.rows.described import described_sides

LOADERS = [load_pairs, stream_pairs]
ROWS = {
    "caption": ["a dog", "a cat", "a cow"],
    "number": [7, 8, 9],
    "clip": ["clips/ego.1/v_2.mp4", "b/c.mp4", "d.mp4"],
    "options": [["one", "two"], ["three"], ["four", "five"]],
    "about": [{"place": "here"}, {"place": "there"}, {"place": "nowhere"}],
    "wrong": [["a fox", "a hen"], [], ["an owl"]],
    "nothing": [None, "", None],
}


@pytest.fixture(autouse=True)
def untold() -> None:
    known._tell.cache_clear()
    list_texts._tell.cache_clear()


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes columns to a parquet file; an entry of `train_data` that names it."""

    def write(columns: dict[str, Any] = ROWS, **description: Any) -> dict[str, Any]:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2)
        return {"path": str(tmp_path / "t.parquet"), **description}

    return write


def texts(entry: dict[str, Any], load: Callable[..., Any], part: str = "query") -> list[str]:
    pairs = load([entry])
    return [getattr(pairs[row], part).text for row in range(len(pairs))]


@pytest.mark.parametrize(
    "template",
    [
        "no columns",
        "Find: {caption} ",
        "<{caption}>{{{number}}}",
        "{options[0]}!",
        "{about[place]}",
        "{clip:stem} {clip:flat}",
        "{options:lines}|{options:words}|{options:lettered}",
    ],
)
def test_all_rows_at_once_are_as_each_by_itself(template: str, parquet: Callable[..., dict[str, Any]]) -> None:
    rows = pa.table(ROWS).to_pylist()
    each = [Template(template, "w").fill(row, "p") for row in rows]
    for load in LOADERS:
        assert texts(parquet(query=template, positive="{caption}"), load) == each


def test_a_picture_without_braces_is_a_column() -> None:
    table = pa.table({"picture": ["a.png", "b.png"], "name": ["a", "b"]})
    for image in ("picture", "{picture}", "{name}.png"):
        query, positive = described_sides(table, description_from({"image": image, "text": "t"}, "{name}", None, "w"))
        assert query.images.to_pylist() == [["a.png"], ["b.png"]]
        assert query.text.to_pylist() == ["<|image_1|>t"] * 2
        assert positive.text.to_pylist() == ["a", "b"]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("negatives", "found"),
    [
        ({"text": "{wrong}"}, [["a fox", "a hen"], [], ["an owl"]]),
        ("not {wrong}", [["not a fox", "not a hen"], [], ["not an owl"]]),
        ("{number}: {wrong}", [["7: a fox", "7: a hen"], [], ["9: an owl"]]),
        ("{caption}!", [["a dog!"], ["a cat!"], ["a cow!"]]),
        (["{wrong}", "{caption}"], [["a fox", "a hen", "a dog"], ["a cat"], ["an owl", "a cow"]]),
        ("so {nothing}", [[], [], []]),
        ("{options:lines}", [["one\ntwo"], ["three"], ["four\nfive"]]),
    ],
)
def test_negatives(
    negatives: Any, found: list[list[str]], load: Callable[..., Any], parquet: Callable[..., dict[str, Any]]
) -> None:
    pairs = load([parquet(query="{caption}", positive="{caption}", negatives=negatives)])
    assert [[negative.text for negative in pairs[row].negatives] for row in range(3)] == found
    assert not load([parquet(query="{caption}", positive="{caption}", negatives=negatives)], use_negatives=False)[
        0
    ].negatives


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"query": "{captoin}"}, r"train_data '.*t.parquet': query: there is no column 'captoin' in .*'caption'\?"),
        ({"positive": {"image": "pictur"}}, r"positive: image: there is no column 'pictur' in .*there are caption"),
        ({"query": {"txt": "{caption}"}}, r"query: there is no key 'txt'. Did you mean 'text'"),
        ({"query": "{caption"}, r"query: '{caption': .*brace"),
        ({"query": ["a"]}, r"query must be text, not"),
        ({"query": None}, r"train_data '.*' lacks 'query'"),
        ({"positive": None}, r"train_data '.*' lacks 'positive'"),
        ({"query": "so {nothing}"}, r"row 0 of 't' .*query: text shows 'nothing', which is empty"),
        ({"query": "{nothing}"}, r"row 0 of 't' .*the query is empty"),
        ({"query": "{wrong[0]}"}, r"row 1 of 't' .*'wrong\[0\]' cannot be read: the list is too short"),
        ({"query": "{wrong}"}, r"query: text shows 'wrong', which must be text or a number"),
        ({"query": {"image": "number"}}, r"query: image is the column 'number', which holds int64"),
        ({"negatives": {"text": "{wrong} {options}"}}, r"row 1 of 't' .*'wrong' has|row 1 of 't' .*'options' has"),
        ({"ignore": "wrong"}, r"ignore of .* give a list of columns"),
        ({"queri": "{caption}"}, r"no key 'queri'; did you mean 'query'"),
    ],
)
def test_what_is_wrong_is_named(
    description: dict[str, Any], message: str, parquet: Callable[..., dict[str, Any]]
) -> None:
    columns = {**ROWS, "options": [["one", "two"], ["three"], ["four"]], "wrong": [["a", "b"], [], ["c"]]}
    if "negatives" in description:
        columns["wrong"] = [["a", "b"], ["c", "d"], ["e"]]
    for load in LOADERS:
        with pytest.raises(ValueError, match=message):
            made = load([parquet(columns, **{"query": "{caption}", "positive": "{caption}", **description})])
            [made[row] for row in range(3)]


def test_what_nobody_reads_is_told_once(
    parquet: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"q": ["a"], "d": ["b"], "query_image": ["c"], "notes": ["n"], "spare": ["s"]}
    for _ in range(2):
        for load in LOADERS:
            load([parquet(columns, query="{q}", positive="{d}", ignore=["spare"])])[0]
    told = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert len(told) == 1
    assert told[0].endswith("t.parquet: these columns are not read: query_image (qry_image is known), notes")


NEAR: list[tuple[str, Any, str]] = [
    ("qry_image_paths", "a.png", "qry_image_path"),
    ("image", "a.png", "qry_image"),
    ("query_image", ["a.png"], "qry_image"),
    ("pos_video", "a.mp4", "pos_video_path"),
    ("photo", {"bytes": b"x", "path": None}, "ignore: .photo."),
    ("picture", b"x", "`query` and `positive`"),
]


@pytest.mark.parametrize(("column", "value", "near"), NEAR)
def test_pictures_that_nobody_would_read_are_refused(
    column: str, value: Any, near: str, parquet: Callable[..., dict[str, Any]]
) -> None:
    columns = {"qry": ["q"], "pos_text": ["p"], column: [value]}
    for load in LOADERS:
        with pytest.raises(ValueError, match=f"t.parquet.*{column!r}, which nobody reads.*{near}"):
            load([parquet(columns)])
        assert load([parquet(columns, ignore=[column])])[0].query.text == "q"
        assert load([parquet(columns, query="{qry}", positive="{pos_text}")])[0].query.text == "q"


def test_columns_that_hold_no_media_are_let_be(parquet: Callable[..., dict[str, Any]]) -> None:
    columns = {
        "qry": ["q"],
        "pos_text": ["p"],
        "image_id": [17],
        "image_url": ["https://x.example/a.png"],
        "id": ["a"],
    }
    assert load_pairs([parquet(columns)])[0].query.text == "q"


def test_one_column_of_pictures_under_both_names_is_refused(parquet: Callable[..., dict[str, Any]]) -> None:
    columns = {"qry": ["q"], "pos_text": ["p"], "qry_image": [b"x"], "qry_image_path": [""]}
    with pytest.raises(ValueError, match="has both qry_image and qry_image_path"):
        load_pairs([parquet(columns)])


@pytest.mark.parametrize("path", ["TIGER-Lab/MMEB-V2", "tiger-lab/mmeb-v2/", "TIGER-Lab/MMEB-eval"])
def test_a_repository_of_evaluation_data_says_so(path: str) -> None:
    for load in LOADERS:
        with pytest.raises(ValueError, match=r"repository of evaluation data.*eval_benchmark: mmeb"):
            load(path)


def test_rows_of_an_evaluation_say_so(parquet: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"rows of an evaluation .qry_text, tgt_text.*eval_benchmark"):
        load_pairs([parquet({"qry_text": ["q"], "tgt_text": [["a", "b"]]})])


LISTS = ["['a cat', 'a dog']", "", "[\"it's\", '']", "[]"]
READ = [["a cat", "a dog"], [], ["it's"], []]


@pytest.mark.parametrize("load", LOADERS)
def test_lists_written_as_text_are_lists(
    load: Callable[..., Any], parquet: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    columns = {
        "qry": list("abcd"),
        "pos_text": list("efgh"),
        "neg_text": LISTS,
        "neg_image_path": ["['', '']", "", "", ""],
    }
    pairs = load([parquet(columns)])
    assert [[negative.text for negative in pairs[row].negatives] for row in range(4)] == READ
    described = parquet(
        columns, query="{qry}", positive="{pos_text}", negatives="{neg_text}", ignore=["neg_image_path"]
    )
    pairs = load([described])
    assert [[negative.text for negative in pairs[row].negatives] for row in range(4)] == READ
    told = [record.getMessage() for record in caplog.records if "lists written as text" in record.getMessage()]
    assert sum("'neg_text'" in one for one in told) == 1


def test_texts_in_brackets_stay_texts(parquet: Callable[..., dict[str, Any]]) -> None:
    columns = {"qry": list("abc"), "pos_text": list("efg"), "neg_text": ["[sic] a cat", "[a dog]", "['a hen']"]}
    pairs = load_pairs([parquet(columns)])
    assert [pairs[row].negatives[0].text for row in range(3)] == columns["neg_text"]


def test_a_broken_list_among_lists_is_named(parquet: Callable[..., dict[str, Any]]) -> None:
    columns = {"qry": list("abc"), "pos_text": list("efg"), "neg_text": ["['a']", "['it's']", "['b', 'c']"]}
    with pytest.raises(ValueError, match=r"row 1 of 't' .*'neg_text' holds lists written as text, but .*it's"):
        load_pairs([parquet(columns)])


def test_a_described_jsonl_trains_beside_one_of_known_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "answer": "a", "hard": ["x", "y"]}))
    (tmp_path / "b.jsonl").write_text(json.dumps({"qry": "q", "pos_text": "a"}))
    described = {
        "path": str(tmp_path / "a.jsonl"),
        "query": "{question}",
        "positive": "{answer}",
        "negatives": "{hard}",
    }
    pairs = load_pairs([described, str(tmp_path / "b.jsonl")])
    assert [source.name for source in pairs.sources] == ["a", "b"]
    assert [len(pairs[row].negatives) for row in range(2)] == [2, 0]
