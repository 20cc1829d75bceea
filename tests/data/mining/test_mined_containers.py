"""`llave mine` on rows whose columns a recipe describes, and on tables that hold their pictures."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import write_training_data
from tables import hub_rows, picture_bytes, stored

from llave_hf.cli import main
from llave_hf.data import load_pairs
from llave_hf.data.media import load_sample
from llave_hf.data.mining.mined_rows import mine
from llave_hf.data.mining.mining import MiningOptions
from llave_hf.data.samples import Sample
from llave_hf.data.stored.pictures import content_digest

TWO = MiningOptions(num_negatives=2, relative_margin=None)


def pixels(sample: Sample) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in load_sample(sample)["images"]]


def file_of(sample: Sample) -> Path:
    (name,) = sample.images
    assert isinstance(name, str) and sample.media_root is not None
    return Path(sample.media_root) / name


def described(path: Path) -> list[dict[str, Any]]:
    return [{"path": str(path), "query": "Find: {question}", "positive": "{answer}"}]


def test_described_rows_are_written_under_the_known_names(model: Path, tmp_path: Path) -> None:
    rows = [{"question": f"question {row}", "answer": f"answer {row}", "page": row} for row in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = MiningOptions(num_negatives=1, relative_margin=None)
    mine(described(tmp_path / "t.jsonl"), model, tmp_path / "mined", options, report=lambda _: None)
    plain, mined = load_pairs(described(tmp_path / "t.jsonl")), load_pairs(str(tmp_path / "mined"))
    for row in range(4):
        assert (mined[row].query.text, mined[row].positive.text) == (plain[row].query.text, plain[row].positive.text)
        assert len(mined[row].negatives) == 1
        assert mined[row].negatives[0].text in {f"answer {other}" for other in range(4) if other != row}


def test_what_described_rows_say_of_themselves_stays(model: Path, tmp_path: Path) -> None:
    rows = [
        {"question": f"question {row}", "answer": f"answer {row}", "label": f"kind {row % 2}", "pos_hardness": row / 4}
        for row in range(4)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mine(described(tmp_path / "t.jsonl"), model, tmp_path / "mined", TWO, report=lambda _: None)
    plain, mined = load_pairs(described(tmp_path / "t.jsonl")), load_pairs(str(tmp_path / "mined"))
    assert [pair.hardness for pair in mined] == [0.0, 0.25, 0.5, 0.75]
    codes = [pair.label for pair in mined]
    assert codes[0] == codes[2] != codes[1] == codes[3]
    assert [pair.label for pair in plain] == codes
    for row, pair in enumerate(mined):  # of the other label only, though two are asked for and three are there
        assert {negative.text for negative in pair.negatives} == {f"answer {1 - row % 2}", f"answer {3 - row % 2}"}


# ------------------------------------------------------------------------------------------------- pictures in tables


def test_pictures_of_tables_become_files_each_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first and the last document are equal bytes in two places, and so no negatives of each other's query."""
    seeds = [0, 1, 2, 0]
    columns = {
        "qry": [f"picture {seed}, question {row}" for row, seed in enumerate(seeds)],
        "pos_text": ["Which?"] * 4,
        "pos_image": [stored(seed, "page.png") for seed in seeds],
        "neg_text": [["Which?"], [], [], []],
        "neg_image": [[stored(7)], [], [], []],
    }
    table = tmp_path / "t.parquet"
    hub_rows(columns, ["pos_image", "neg_image"]).to_parquet(table)
    output = tmp_path / "mined"
    command = ["mine", str(table), str(model), "--output", str(output), "--num_negatives", "3"]
    main([*command, "--relative_margin", "none"])
    assert f"--train_data {output} --use_negatives --media_root {output}" in capsys.readouterr().out
    written = {content_digest(file.read_bytes()) for file in (output / "pictures").rglob("*.png")}
    assert written == {content_digest(picture_bytes(seed)) for seed in (0, 1, 2, 7)}
    assert len(list((output / "pictures").rglob("*.*"))) == 4
    plain, mined = load_pairs(str(table)), load_pairs(str(output))
    for row, (before, after) in enumerate(zip(plain, mined, strict=True)):
        assert (after.query.text, after.positive.text) == (before.query.text, before.positive.text)
        assert pixels(after.positive) == pixels(before.positive)
        own = len(before.negatives)
        assert [pixels(one) for one in after.negatives[:own]] == [pixels(one) for one in before.negatives]
        others = {picture_bytes(seed) for seed in (0, 1, 2)} - {picture_bytes(seeds[row])}
        assert {file_of(one).read_bytes() for one in after.negatives[own:]} == others
        assert len(after.negatives) == own + 2
    # a second run finds all of it there
    main([*command, "--relative_margin", "none"])
    assert "t: already mined, kept" in capsys.readouterr().out


def test_described_pictures_of_a_table_can_be_grouped_and_trained_on(model: Path, tmp_path: Path) -> None:
    columns = {"question": [f"page {row}" for row in range(6)], "page": [stored(row) for row in range(6)]}
    hub_rows(columns, ["page"]).save_to_disk(tmp_path / "saved")
    entry = {"path": str(tmp_path / "saved"), "query": "{question}", "positive": {"image": "page", "text": "\nRead."}}
    options = MiningOptions(num_negatives=0, relative_margin=None, group_size=2)
    mine([entry], model, tmp_path / "mined", options, report=lambda _: None)
    grouped = load_pairs(str(tmp_path / "mined"), whole_groups=True)
    assert sorted(pair.group for pair in grouped) == [0, 0, 1, 1, 2, 2]
    plain = {pair.query.text: pair.positive for pair in load_pairs([entry])}
    for pair in grouped:
        assert pair.positive.text == plain[pair.query.text].text
        assert pixels(pair.positive) == pixels(plain[pair.query.text])


def test_pictures_in_rows_and_in_files_have_no_common_root(tmp_path: Path) -> None:
    columns = {"qry": ["a", "b"], "pos_text": ["", ""], "pos_image": [stored(0), stored(1)]}
    hub_rows(columns, ["pos_image"]).to_parquet(tmp_path / "t.parquet")
    write_training_data(tmp_path / "data")
    sources = [str(tmp_path / "t.parquet"), str(tmp_path / "data" / "train")]
    with pytest.raises(ValueError, match=r"t.parquet\) holds its pictures itself.*names files below its media_root"):
        mine(sources, "tests/fixtures/model/tiny_2x2", tmp_path / "mined", media_root=str(tmp_path / "data"))
    columns |= {"qry": ["<|image_1|>a", "<|image_1|>b"], "qry_image_path": ["x.png", "y.png"]}
    hub_rows(columns, ["pos_image"]).to_parquet(tmp_path / "t.parquet")
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(picture_bytes(3))
    with pytest.raises(ValueError, match=r"t.parquet\) holds some pictures itself and names files of others"):
        mine(str(tmp_path / "t.parquet"), "tests/fixtures/model/tiny_2x2", tmp_path / "mined")


# ------------------------------------------------------------------------------------------- columns that nobody reads


def test_what_json_has_no_word_for_is_written_as_text_or_told(model: Path, tmp_path: Path) -> None:
    rows: dict[str, Any] = {"qry": [f"q{row}" for row in range(3)], "pos_text": [f"p{row}" for row in range(3)]}
    rows |= {
        "when": pa.array([datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)] * 3),
        "day": pa.array([datetime.date(2024, 2, 29)] * 3),
        "price": pa.array([decimal.Decimal("1.50")] * 3),
        "counts": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
        "meta": pa.array([{"raw": [b"x"], "size": 1}] * 3),
    }
    (tmp_path / "T").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "T" / "train.parquet")
    told: list[str] = []
    mine(str(tmp_path / "T"), model, tmp_path / "mined", TWO, report=told.append)
    first = json.loads((tmp_path / "mined" / "T" / "original.jsonl").read_text().splitlines()[0])
    assert (first["when"], first["day"]) == ("2024-02-29T12:30:00+00:00", "2024-02-29")
    assert (first["price"], first["counts"]) == ("1.50", {"a": 1})
    assert "meta" not in first
    assert "left out the column 'meta': it holds bytes" in told[0]
    assert len(load_pairs(str(tmp_path / "mined"))) == 3
