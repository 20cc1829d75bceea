from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from look_data import MARK, look, notes, problems, row, task, write_rows

from llave_hf.data.look.look import look_at
from llave_hf.data.look.repeats import count_repeats
from llave_hf.data.look.spread import Spread, evenly, in_runs
from llave_hf.data.look.summary import summary
from llave_hf.data.pairs import load_pairs
from llave_hf.data.sources.specs import parse_specs


def test_a_spread_is_of_numbers_that_stand_there() -> None:
    numbers = np.random.default_rng(0).permutation(np.arange(1, 201))
    assert Spread.of(numbers) == Spread(1, 100, 190, 200)
    assert Spread.of([7]) == Spread(7, 7, 7, 7)
    assert Spread.of([]) is None


def test_even_rows_begin_and_end_with_the_data() -> None:
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(101, 5).tolist() == [0, 25, 50, 75, 100]


def test_runs_are_of_neighbours() -> None:
    assert in_runs(3, 5).tolist() == [0, 1, 2]
    assert in_runs(100, 8).tolist() == [0, 1, 32, 33, 65, 66, 98, 99]
    assert in_runs(10, 9).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_good_rows_are_counted(tmp_path: Path) -> None:
    rows = [
        row(f"{MARK}what?", "a dog", qry_image_path="images/0.png", neg_text=["a", "bcd"]),
        row(f"{MARK}what now?", "snow", qry_image_path="images/1.png", neg_text=["efghi"]),
        row("hello", f"{MARK}", pos_image_path="images/2.png", neg_text=[]),
    ]
    looked = look(write_rows(tmp_path, "Mixed", rows))
    assert not problems(looked) and looked.rows == looked.opened == 3
    query, positive, negative = task(looked, "Mixed").sides
    assert (query.entries, query.texts, query.pictures, query.videos, query.empty) == (3, 3, 2, 0, 0)
    assert query.characters == Spread(5, 6, 10, 10)  # "\nwhat?" without the mark, "hello", "\nwhat now?"
    assert (positive.entries, positive.texts, positive.pictures) == (3, 2, 1)
    assert (negative.role, negative.entries) == ("negative", 3) and negative.characters == Spread(1, 3, 5, 5)
    pictures = task(looked, "Mixed").pictures
    assert pictures.modes == {"RGB": 2, "L": 1} and pictures.side(0) == Spread(24, 30, 60, 60)
    assert looked.copies.files == 3 and looked.copies.copies == 0


def test_bad_rows_are_named_and_the_others_looked_at(tmp_path: Path) -> None:
    write_rows(tmp_path, "Good", [row("a", "b"), row("c", "d")])
    bad = [
        row("fine", "fine too"),
        row("", "nothing is asked"),
        row(f"{MARK}{MARK}two marks", "one picture", qry_image_path="images/0.png"),
        row(f"{MARK}gone", "x", qry_image_path="images/absent.png"),
        row(f"{MARK}broken", "x", qry_image_path="images/broken.png"),
    ]
    write_rows(tmp_path, "Bad", bad)
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    looked = look(tmp_path)
    told = problems(looked)
    assert "row 1 of 'Bad'" in told and "the query is empty" in told
    assert "row 2 of 'Bad'" in told and "2 mark(s)" in told
    assert "row 3 of 'Bad'" in told and "absent.png does not exist" in told
    assert "row 4: " in told and "broken.png" in told
    assert [one.name for one in looked.tasks] == ["Bad", "Good"] and task(looked, "Bad").sides[0].empty == 1
    assert told.count("absent.png") == 1 and len(task(looked, "Bad").pictures.broken) == 1
    with pytest.raises(ValueError, match="row 1 of 'Bad'"):  # as training says of the first
        load_pairs(str(tmp_path / "train"), media_root=str(tmp_path))


def test_a_subset_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    write_rows(tmp_path, "Good", [row("a", "b")])
    write_rows(tmp_path, "NoColumns", [{"question": "a", "answer": "b"}])
    write_rows(tmp_path, "NoJson", [])
    (tmp_path / "train" / "NoJson" / "original.jsonl").write_text('{"qry": "a"\n')
    looked = look(tmp_path)
    assert [one.name for one in looked.tasks] == ["Good"]
    assert "has no column 'qry'" in problems(looked) and "line 1 is no JSON" in problems(looked)
    shutil.rmtree(tmp_path / "train" / "Good")
    with pytest.raises(ValueError, match="line 1 is no JSON") as told:
        look(tmp_path)
    assert "has no column 'qry'" in str(told.value)


def test_repeats() -> None:
    found = count_repeats([5, 5, 5, 7], [1, 1, 2, 1])
    assert (found.rows, found.repeated, found.queries, found.documents) == (4, 1, 2, 2)


def test_rows_that_mislead_are_told(tmp_path: Path) -> None:
    rows = [
        row("same", "same", neg_text="x"),
        row("q", "answer", neg_text=["no", "answer"]),
        row("q", "answer", neg_text="z"),
        row("other", "answer", neg_text="y"),
        row("third", "answer", neg_text="y"),
    ]
    looked = look(write_rows(tmp_path, "Odd", rows))
    repeats = task(looked, "Odd").repeats
    assert (repeats.repeated, repeats.same_sides, repeats.answer_as_negative) == (1, 1, 1)
    assert "1 rows have the same content as query and as document" in notes(looked)
    assert "1 rows have their own document among their negatives" in notes(looked)
    assert "1 of 5 rows looked at repeat another row" in notes(looked) and "2 distinct documents in 5" in notes(looked)
    without = look(tmp_path, use_negatives=False)
    assert "among their negatives" not in notes(without) and len(task(without, "Odd").sides) == 2


def test_pictures_of_one_content_are_found(tmp_path: Path) -> None:
    rows = [row(f"{MARK}{n}", str(n), qry_image_path=f"images/{n}.png") for n in range(4)]
    write_rows(tmp_path, "Twins", rows)
    shutil.copy(tmp_path / "images" / "0.png", tmp_path / "images" / "3.png")
    looked = look(tmp_path)
    assert (looked.copies.files, looked.copies.copies) == (4, 1)
    assert looked.copies.examples == (("images/0.png", "images/3.png"),)
    assert "images/3.png of images/0.png" in notes(looked)


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path, "Extra", [row("a", "b", caption="c", split="d")])
    (tmp_path / "train" / "Extra" / "validation.jsonl").write_text(json.dumps(row("x", "y")))
    (tmp_path / "train" / "Extra" / "notes.txt").write_text("read me")
    (tmp_path / "train" / "Extra" / "mining.json").write_text("{}")  # what llave mine writes beside rows
    looked = look(tmp_path)
    assert "columns that are not read: caption, split" in notes(looked)
    assert "not read: notes.txt, validation.jsonl" in notes(looked)
    assert task(looked, "Extra").unread == ("caption", "split")


def test_odd_pictures_are_told(tmp_path: Path) -> None:
    from helpers import picture

    write_rows(tmp_path, "Odd", [row(f"{MARK}a", "b", qry_image_path="images/strip.png")])
    picture(90, 9).save(tmp_path / "images" / "strip.png")
    assert "1 of 1 pictures opened have one side 6 times the other or more, such as 90 x 9" in notes(look(tmp_path))


def test_a_stream_is_looked_at_by_shards(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "Long"
    folder.mkdir(parents=True)
    names = [f"n {number}" for number in range(60_000)]
    table = pa.table({"qry": names, "pos_text": [f"p {name}" for name in names], "beside": names})
    pq.write_table(table, folder / "train.parquet", row_group_size=5000)
    looked = look_at(parse_specs(str(tmp_path / "train")), streaming=True, rows=50)
    (long,) = looked.tasks
    assert long.rows == 60_000 and long.read == 20_000 and long.opened == 50
    assert [pair.row for pair in long.pairs] == [0, 1, 2] and long.unread == ("beside",)
    assert long.repeats.rows == 20_000


def test_the_summary_is_json(tmp_path: Path) -> None:
    write_rows(tmp_path, "One", [row(f"{MARK}a", "b", qry_image_path="images/0.png")])
    read = json.loads(json.dumps(summary(look(tmp_path))))
    assert read["rows"] == 1 and read["problems"] == 0
    (pair,) = read["tasks"]["One"]["pairs"]
    assert (
        pair["samples"][0]["pictures"] == ["images/0.png"] and "<image>\na<|im_end|>" in pair["samples"][0]["prompt"]
    )
    assert read["tasks"]["One"]["pictures"]["width"] == {"min": 30, "median": 30, "95 %": 30, "max": 30}


def test_described_columns_and_pictures_in_tables(tmp_path: Path) -> None:
    names = ("0", "1", "0", "2")
    write_rows(tmp_path, "unused", [])
    content = [(tmp_path / "images" / f"{name}.png").read_bytes() for name in names]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": one, "path": None} for one in content], kind)
    table = pa.table({"image": pictures, "query": ["a", "b", "a", "c"], "number": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "pages.parquet")
    source = {"path": str(tmp_path / "pages.parquet"), "query": "Find: {query}", "positive": {"image": "{image}"}}
    (pages,) = (looked := look_at(parse_specs(source))).tasks
    assert not problems(looked) and pages.unread == ("number",)
    assert pages.pictures.modes == {"RGB": 3, "L": 1}
    repeats = pages.repeats  # the third row has the bytes of the first
    assert (repeats.rows, repeats.repeated, repeats.documents) == (4, 1, 3)
    assert pages.pairs[0].samples[0].sample.text == "Find: a" and looked.copies.files == 0
