"""`llave mine` on rows whose columns a recipe describes, and on tables that hold their pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from tables import hub_rows, stored

from llave_hf.data import load_pairs
from llave_hf.data.mining.mined_rows import mine
from llave_hf.data.mining.mining import MiningOptions


def described(path: Path) -> list[dict[str, Any]]:
    return [{"path": str(path), "query": "Find: {question}", "positive": "{answer}"}]


def test_described_rows_are_written_under_the_known_names(tmp_path: Path) -> None:
    for part in tiny_model(processor={"image_tiling": "none"}):
        part.save_pretrained(tmp_path / "model")
    rows = [{"question": f"question {row}", "answer": f"answer {row}", "page": row} for row in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = MiningOptions(num_negatives=1, relative_margin=None)
    mine(described(tmp_path / "t.jsonl"), tmp_path / "model", tmp_path / "mined", options, report=lambda _: None)
    plain, mined = load_pairs(described(tmp_path / "t.jsonl")), load_pairs(str(tmp_path / "mined"))
    for row in range(4):
        assert (mined[row].query.text, mined[row].positive.text) == (plain[row].query.text, plain[row].positive.text)
        assert len(mined[row].negatives) == 1
        assert mined[row].negatives[0].text in {f"answer {other}" for other in range(4) if other != row}


def test_tables_that_hold_their_pictures_are_refused(tmp_path: Path) -> None:
    columns = {"qry": ["a", "b"], "pos_text": ["", ""], "pos_image": [stored(0), stored(1)]}
    hub_rows(columns, ["pos_image"]).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t.parquet\) holds its pictures itself.*write the pictures to files"):
        mine(str(tmp_path / "t.parquet"), "tests/fixtures/model/tiny_2x2", tmp_path / "mined")
