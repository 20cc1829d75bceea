from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny_model, write_recipe, write_training_data

from llave_hf import cli


def run(*words: object) -> None:
    cli.main(["data", *map(str, words)])


def test_sources_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training_data(tmp_path)
    page = tmp_path / "pages" / "page.html"
    run(tmp_path / "train", "--media_root", tmp_path, "--output", page)
    told = capsys.readouterr()
    assert told.out.startswith("48 rows of 2 tasks. ") and "Nothing is wrong with the rows." in told.out
    assert str(page) in told.err and "Caption" in page.read_text(encoding="utf-8")
    run(tmp_path / "train" / "Caption", tmp_path / "train" / "Question", "--media_root", tmp_path, "--json")
    assert json.loads(capsys.readouterr().out)["tasks"].keys() == {"Caption", "Question"}


def test_a_recipe_s_data_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training_data(tmp_path)
    recipe = write_recipe(tmp_path, max_samples_per_source=5)
    run(recipe, "--json")
    read = json.loads(capsys.readouterr().out)
    assert read["rows"] == 10 and read["problems"] == 0
    with pytest.raises(SystemExit) as ended:
        run(recipe, tmp_path / "train")
    assert ended.value.code == 2 and "look at it alone" in capsys.readouterr().err


def test_a_model_s_processor_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training_data(tmp_path)
    for part in tiny_model():
        part.save_pretrained(tmp_path / "model")
    run(tmp_path / "train", "--media_root", tmp_path, "--model", tmp_path / "model", "--json", "--rows", 1)
    read = json.loads(capsys.readouterr().out)
    assert read["tasks"]["Caption"]["sides"]["positive"]["tokens"]["min"] > 20 and read["opened_rows"] == 40


def test_bad_rows_end_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"qry": "a", "pos_text": ""}\n')
    with pytest.raises(SystemExit) as ended:
        run(rows)
    told = capsys.readouterr()
    assert ended.value.code == 1 and "row 0 of 'rows'" in told.out and "1 problem(s)" in told.err


def test_half_a_number_of_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training_data(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "train", "--rows", "0")
    assert ended.value.code == 2 and "--rows is 0" in capsys.readouterr().err


def test_what_a_recipe_lacks_is_told_beside_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training_data(tmp_path)
    absent = {"path": "TIGER-Lab/MMEB-train", "media_root": str(tmp_path / "MMEB-train")}
    recipe = write_recipe(tmp_path, train_data=[str(tmp_path / "train"), absent])
    with pytest.raises(SystemExit) as ended:
        run(recipe)
    told = capsys.readouterr().out
    assert ended.value.code == 1 and told.startswith("48 rows of 2 tasks. ")
    assert f"hf download TIGER-Lab/MMEB-train --repo-type dataset --local-dir {tmp_path / 'MMEB-train'}" in told
