"""Files as editors on Windows write them, and halves of characters wherever they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import picture_bytes, write_archive

from llave_hf.data import load_pairs, stream_pairs

ROW = {"qry": "café ☕", "pos_text": "p"}
BOTH = [load_pairs, stream_pairs]


def content(suffix: str, row: dict[str, Any] = ROW) -> str:
    if suffix == "csv":
        return ",".join(row) + "\r\n" + ",".join(row.values()) + "\r\n"
    return json.dumps([row] if suffix == "json" else row, ensure_ascii=False)


def loaders(suffix: str) -> list[Callable[..., Any]]:
    return BOTH if suffix == "jsonl" else [load_pairs]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_byte_order_mark_is_read_over(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"t.{suffix}"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_bytes(content(suffix).encode(encoding))
        for load in loaders(suffix):
            assert load(str(file))[0].query.text == ROW["qry"]


def test_a_mark_before_an_empty_line_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(ROW).encode() + b"\r\n")
    for load in BOTH:
        assert load(str(tmp_path / "t.jsonl"))[0].query.text == ROW["qry"]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"])
def test_another_encoding_is_named_with_its_file(tmp_path: Path, suffix: str, encoding: str) -> None:
    file = tmp_path / f"t.{suffix}"
    row = {**ROW, "qry": "café"}
    file.write_bytes(content(suffix, row).encode(encoding))
    line = 2 if suffix == "csv" else 1
    wrong = (
        f"t.{suffix} is written in UTF-" if "utf" in encoding else f"t.{suffix}, line {line} is not in UTF-8 .*0xe9"
    )
    for load in loaders(suffix):
        with pytest.raises(ValueError, match=wrong):
            load(str(file))[0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, delimiter: str) -> None:
    lines = [["qry", "pos_text", "label"], ['"say ""hi""\r\ntwice"', "007", "1"], ["b", "true", ""]]
    (tmp_path / "t.csv").write_bytes("\r\n".join(delimiter.join(line) for line in lines).encode("utf-8-sig"))
    pairs = load_pairs(str(tmp_path / "t.csv"))
    assert [pairs[row].query.text for row in range(2)] == ['say "hi"\r\ntwice', "b"]
    assert [pairs[row].positive.text for row in range(2)] == ["007", "true"]  # no number, no truth value
    with pytest.raises(ValueError, match=r"t.csv cannot be streamed"):
        stream_pairs(str(tmp_path / "t.csv"))


def test_csv_with_a_value_too_many_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("qry,pos_text\na,b\nc,d,e\n")
    with pytest.raises(ValueError, match=r"t.csv cannot be read as CSV \(.*Expected 2 columns, got 3"):
        load_pairs(str(tmp_path / "t.csv"))


def half(kind: str) -> Any:
    """Texts of two rows as Arrow takes them from elsewhere, the second with half a character."""
    contents = [b"fine", b"hi \xed\xa0\xbd"]
    if kind == "list":
        inner = half("string")
        return pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), inner)
    ends = pa.array([0, len(contents[0]), sum(map(len, contents))], pa.int32())
    return pa.Array.from_buffers(pa.string(), 2, [None, ends.buffers()[1], pa.py_buffer(b"".join(contents))])


@pytest.mark.parametrize("column", ["qry", "pos_text", "neg_text"])
def test_half_a_character_is_named_with_source_row_and_column(tmp_path: Path, column: str) -> None:
    rows: list[dict[str, Any]] = [{"qry": "a", "pos_text": "b", "neg_text": ["c"]} for _ in range(2)]
    rows[1][column] = ["hi \ud83d"] if column == "neg_text" else "hi \ud83d"
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.json").write_text(json.dumps(rows))
    sample = {"json": rows[1], "png": picture_bytes(0)}
    write_archive(tmp_path / "t.tar", [("0", {**sample, "json": rows[0]}), ("1", sample)])
    table = {"qry": ["a", "b"], "pos_text": ["c", "d"], "neg_text": [["e"], ["f"]]}
    table[column] = half("list" if column == "neg_text" else "string")
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    datasets.Dataset(pa.table(table)).save_to_disk(tmp_path / "saved")
    described = {"query": "{qry}", "positive": {"image": "png", "text": "{pos_text}"}, "negatives": "{neg_text}"}
    for name, place in (
        ("t.jsonl", "t.jsonl"),
        ("t.json", "t.json"),
        ("t.parquet", "t.parquet"),
        ("saved", "saved"),
        ("t.tar", "t.tar"),
    ):
        entry = {"path": str(tmp_path / name), **(described if name == "t.tar" else {})}
        for load in [load_pairs] if name == "t.json" else BOTH:
            with pytest.raises(ValueError, match=rf"{place}, row 1, column '{column}'.* half a character"):
                pairs = load([entry])
                [pairs[row] for row in range(2)]
