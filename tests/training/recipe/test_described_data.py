"""Recipes whose `train_data` say what their columns mean, as a file, on the command line and in `llave doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers import write_recipe
from tables import hub_rows, stored

from llave_hf.doctor import examine
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import load_training_pairs

YAML = """
- path: {pages}
  query: "Find the page that answers: {{query}}"
  positive: {{image: image, text: "\\nRepresent the given page.\\n"}}
- path: {pairs}
  query: {{text: "{{caption}}"}}
  positive: {{text: no}}
  negatives: {{text: "{{hard_negatives}}"}}
  weight: 2
"""


@pytest.fixture
def entries(tmp_path: Path) -> str:
    pages = {"query": [f"question {row}" for row in range(8)], "image": [stored(row) for row in range(8)]}
    hub_rows(pages, ["image"]).to_parquet(tmp_path / "pages.parquet")
    rows = [{"caption": f"caption {row}", "hard_negatives": ["x", "y"]} for row in range(8)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return YAML.format(pages=tmp_path / "pages.parquet", pairs=tmp_path / "pairs.jsonl")


def test_a_recipe_and_the_command_line_describe_columns(entries: str, tmp_path: Path) -> None:
    written = load_recipe(write_recipe(tmp_path, train_data=yaml.safe_load(entries.replace(": no", ': "no"'))))
    override = load_recipe(write_recipe(tmp_path), ["--train_data", entries])
    for recipe in (written, override):
        pairs = load_training_pairs(recipe.data, use_negatives=True)
        assert [source.weight for source in pairs.sources] == [1, 2]
        assert pairs[1].query.text == "Find the page that answers: question 1"
        assert pairs[1].positive.text == "\nRepresent the given page.\n"
        assert pairs[9].positive.text == "no"  # a text, no switch
        assert [negative.text for negative in pairs[9].negatives] == ["x", "y"]


def test_the_doctor_reads_descriptions(entries: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, per_device_train_batch_size=2)
    found = [str(one.text) for one in examine(str(recipe), ["--train_data", entries], fast=True, tflops=100.0)]
    assert any("pages: 8 samples with pictures or videos opened" in text for text in found)
    wrong = entries.replace("{caption}", "{captoin}")
    found = [str(one.text) for one in examine(str(recipe), ["--train_data", wrong], fast=True, tflops=100.0)]
    assert any("query: text: there is no column 'captoin'" in text and "'caption'" in text for text in found)


def test_the_doctor_names_half_a_character_in_a_stream(tmp_path: Path) -> None:
    rows = [{"qry": f"q {row}", "pos_text": f"p {row}"} for row in range(8)]
    rows[5]["qry"] = "hi \ud83d"
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = write_recipe(
        tmp_path, train_data=str(tmp_path / "t.jsonl"), streaming=True, per_device_train_batch_size=2
    )
    found = [str(one.text) for one in examine(str(recipe), fast=True, tflops=100.0)]
    assert any("t.jsonl, row 5, column 'qry'" in text and "half a character" in text for text in found)
