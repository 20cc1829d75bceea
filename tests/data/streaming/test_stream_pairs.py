"""Opening data as streams: the rows that `load_pairs` gives, read piece by piece, with the same checks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmeb_rows import Row, rows

from llave_hf.data import MediaError, load_pairs, stream_pairs
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.data.streaming.sources import StreamedSubset, _open_hub

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.data.streaming.shards.SHARD_ROWS", 3)


def _all(dataset: Any) -> list[Any]:
    return [dataset[i] for i in range(len(dataset))]


def _lines(table: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n\n" for row in table)


def test_every_kind_of_source_gives_the_pairs_of_load_pairs(root: Path, write: Write) -> None:
    table = [{**row, "neg_text": "another", "neg_image_path": None, "label": i % 2} for i, row in enumerate(rows(11))]
    expected = _all(load_pairs(write(table)))
    (root / "task.jsonl").write_text(_lines(table), encoding="utf-8")
    (root / "groups").mkdir()
    pq.write_table(pa.Table.from_pylist(table), root / "groups" / "task.parquet", row_group_size=2)
    write(table[:2], "mmeb/task/original-00000-of-00002.parquet")
    write(table[2:], "mmeb/task/original-00001-of-00002.parquet")
    (root / "lines" / "task").mkdir(parents=True)
    (root / "lines" / "task" / "train-00000-of-00002.jsonl").write_text(_lines(table[:4]), encoding="utf-8")
    (root / "lines" / "task" / "train-00001-of-00002.jsonl").write_text(_lines(table[4:]), encoding="utf-8")
    datasets.Dataset.from_list(table).save_to_disk(root / "saved" / "task")
    datasets.DatasetDict(train=datasets.Dataset.from_list(table)).save_to_disk(root / "dict" / "task")
    shards = {"task.parquet": 1, "task.jsonl": 4, "groups/task.parquet": 3, "mmeb": 2, "lines": 5}
    for path, count in {**shards, "saved/task": 4, "dict/task": 4}.items():
        streamed = stream_pairs(str(root / path), media_root=str(root))
        assert _all(streamed) == expected, path
        assert len(streamed.tasks[0].subset.shards) == count, path
        assert _all(pickle.loads(pickle.dumps(streamed))) == expected, path


def test_rows_can_be_asked_for_in_any_order_and_caps_keep_the_same_rows(root: Path, write: Write) -> None:
    one, two = write(rows(40), "one.parquet"), write(rows(25), "two.parquet")
    (root / "three.jsonl").write_text(_lines(rows(17)), encoding="utf-8")
    sources: list[Any] = [{"path": one, "max_samples": 9, "weight": 2.0}, two, str(root / "three.jsonl")]
    indexed = load_pairs(sources, max_samples_per_source=12)
    streamed = stream_pairs(sources, max_samples_per_source=12)
    assert streamed.sources == indexed.sources
    assert _all(streamed) == _all(indexed)
    for index in np.random.default_rng(0).permutation(len(indexed)).tolist():
        assert streamed[index] == indexed[index]
    with pytest.raises(IndexError):
        streamed[len(streamed)]


def test_only_what_is_asked_for_is_read(root: Path) -> None:
    (root / "task.jsonl").write_text(_lines(rows(30)), encoding="utf-8")
    streamed = stream_pairs(str(root / "task.jsonl"))
    read = []
    subset = streamed.tasks[0].subset
    for number, shard in enumerate(subset.shards):
        original = shard.read
        object.__setattr__(
            shard, "read", lambda number=number, original=original: (read.append(number), original())[1]
        )
    assert streamed[16].row == 16
    assert streamed[17].row == 17
    assert streamed[20].row == 20
    assert streamed[29].row == 29
    assert read == [5, 6, 9]


def test_a_bad_row_is_named_when_it_is_read(root: Path, write: Write) -> None:
    table = rows(20)
    table[13]["pos_image_path"] = "images/none.png"
    write(table[:10], "task/train-0-of-2.parquet")
    write(table[10:], "task/train-1-of-2.parquet")
    streamed = stream_pairs(str(root / "task"), media_root=str(root))
    assert [streamed[i].row for i in range(12)] == list(range(12))
    with pytest.raises(MediaError, match=r"row 13 of 'task' \(.*train-1-of-2.parquet, its row 3\): .*none.png"):
        streamed[13]
    assert [streamed[i].row for i in (12, 9, 10)] == [12, 9, 10]  # the others still are themselves
    unchecked = stream_pairs(str(root / "task"), media_root=str(root), check_files=False)
    assert unchecked[13].positive.images == ("images/none.png",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qry": ""}, r"row 7 of 'task' \(.*task.jsonl\): the query is empty"),
        ({"qry": "<|image_1|>\nno picture"}, r"row 7 of 'task' .*1 mark"),
        ({"qry": 5}, r"task.jsonl, column 'qry' mixes types"),
        ("{", r"task.jsonl, line 15 is no JSON"),
        ("\xff", r"task.jsonl, line 15 is not in UTF-8"),
        ("[1]", r"task.jsonl, row 7 is a list"),
    ],
)
def test_a_bad_line_is_named(root: Path, change: Row | str, message: str) -> None:
    lines = [json.dumps(row) for row in rows(20)]
    lines[7] = change if isinstance(change, str) else json.dumps({**rows(20)[7], **change})
    (root / "task.jsonl").write_bytes("\n\n".join(lines).encode("latin-1"))
    streamed = stream_pairs(str(root / "task.jsonl"))
    assert streamed[5].row == 5
    with pytest.raises(ValueError, match=message):
        streamed[6]


def test_what_cannot_be_streamed_is_one_clear_error(root: Path, write: Write) -> None:
    (root / "task.json").write_text(json.dumps(rows()), encoding="utf-8")
    with pytest.raises(ValueError, match=r"task.json cannot be streamed: .* Convert it, or leave `streaming` out"):
        stream_pairs(str(root / "task.json"))
    with pytest.raises(ValueError, match=r"bad.parquet has no column 'qry'; did you mean 'query'\?; there are"):
        stream_pairs(write(pa.table({"query": ["a"], "pos_text": ["b"]}), "bad.parquet"))
    (root / "lines.jsonl").write_text('{"query": "a", "pos_text": "b"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"lines.jsonl has no column 'qry'"):
        stream_pairs(str(root / "lines.jsonl"))[0]
    (root / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'empty' \(.*empty.jsonl\) has no row; leave it out"):
        stream_pairs(str(root / "empty.jsonl"))
    (root / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"broken.parquet cannot be read as parquet .*broken: replace it"):
        stream_pairs(str(root / "broken.parquet"))
    with pytest.raises(ValueError, match=r"train_data names .*task' twice"):
        stream_pairs([write(rows()), write(rows())])
    with pytest.raises(ValueError, match=r"column 'qry' holds int64"):
        stream_pairs(write(pa.table({"qry": [1], "pos_text": ["b"]}), "numbers.parquet"))[0]


def test_data_that_change_under_the_run_are_an_error(root: Path) -> None:
    file = root / "task.jsonl"
    file.write_text(_lines(rows(9)), encoding="utf-8")
    streamed = stream_pairs(str(file))
    file.write_text(_lines(rows(8)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"task.jsonl has changed: 2 rows stand where there were 3"):
        list(streamed.tasks[0].chunks([2]))


def test_a_hub_source_is_read_by_its_parquet_files(root: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder goes through the same functions of datasets; its files then get the Hub's addresses."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    for number in range(2):
        write(rows(4), f"hub/one-{number}.parquet")
    header = "---\nconfigs:\n- config_name: one\n  data_files:\n  - split: original\n    path: one-*.parquet\n---\n"
    (root / "hub" / "README.md").write_text(header, encoding="utf-8")
    spec = SourceSpec(str(root / "hub"), media_root=str(root))
    (subset,) = _open_hub(spec)
    assert (subset.name, [rows for _, rows in subset.files]) == ("one", [4, 4])
    (root / "table").mkdir()
    (root / "table" / "train.csv").write_text("qry,pos_text\na,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"table/default, train does not lie on the Hub as parquet files"):
        list(_open_hub(SourceSpec(str(root / "table"))))

    class Builder:
        config = type("Config", (), {"data_files": {"original": [f"hf://{root}/hub/one-{i}.parquet" for i in (0, 1)]}})

    class Hub:
        def open(self, file: str, mode: str) -> Any:
            return open(file.removeprefix("hf://"), mode)

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **kwargs: Builder())
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Hub)
    (subset,) = _open_hub(spec)
    assert [file for file, _ in subset.files] == Builder.config.data_files["original"]
    monkeypatch.setattr("llave_hf.data.streaming.tasks.open_stream", lambda spec: [subset])
    streamed = stream_pairs("org/name")
    assert isinstance(streamed.tasks[0].subset, StreamedSubset)
    assert [streamed[i].query.text for i in (0, 5)] == [rows(4)[0]["qry"], rows(4)[1]["qry"]]
    assert streamed[0].row == 0
    (root / "hub" / "one-1.parquet").unlink()
    with pytest.raises(ValueError, match=r"one-1.parquet cannot be read as parquet .*; check the connection"):
        streamed[4]


def test_a_hub_id_while_offline_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'nobody/nothing' is no folder or file here, and could not be read from the"):
        stream_pairs("nobody/nothing")
