from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from evaluation_helpers import make_row, write_benchmark, write_jsonl

from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.evaluation.benchmark.rows import RowReader

ROW = make_row("q", ["right", "wrong"])


def read(path: Path, name: str = "A") -> tuple[list[dict[str, Any]], str | None]:
    benchmark = load_benchmark(path)
    reader = RowReader(benchmark)
    task = next(task for task in benchmark.tasks if task.name == name)
    return list(reader.read(task)), reader.revision


def test_parquet_shards_are_read_in_order(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [ROW]})
    first = tmp_path / "eval" / "A" / "test-00000-of-00001.parquet"
    other = write_benchmark(tmp_path / "other", {"A": [make_row("second", ["x", "y"])]})
    (other.parent / "eval" / "A" / first.name).rename(first.with_name("test-00001-of-00002.parquet"))
    rows, revision = read(path)
    assert [row["qry_text"] for row in rows] == ["q", "second"]
    assert revision is not None and revision.startswith("sha256:")


@pytest.mark.parametrize("file", ["A/test-0.jsonl", "A/test/0.jsonl", "A/test.jsonl", "A.jsonl"])
def test_jsonl_is_found_wherever_the_hub_puts_files(tmp_path: Path, file: str) -> None:
    path = write_benchmark(tmp_path, {"A": [ROW]})
    (tmp_path / "eval" / "A" / "test-00000-of-00001.parquet").unlink()
    write_jsonl(tmp_path / "eval" / file, [ROW, ROW])
    assert read(path)[0] == [ROW, ROW]


def test_revision_changes_with_the_data(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [ROW]})
    before = read(path)[1]
    assert before == read(path)[1]
    write_benchmark(tmp_path, {"A": [make_row("other", ["right", "wrong"])]})
    assert read(path)[1] != before


def test_other_splits_are_not_read(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [ROW]}, split="validation")
    with pytest.raises(BenchmarkError, match=r"A: there are no rows of split 'validation' in .*eval: expected"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{', "line 2 of .* not JSON"),
        (b"[1]", "line 1 .* object"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', ".*B.jsonl, line 2 is not in UTF-8"),
    ],
)
def test_broken_jsonl_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = write_benchmark(tmp_path, {"A": [ROW], "B": [ROW]})
    (tmp_path / "eval" / "B" / "test-00000-of-00001.parquet").unlink()
    (tmp_path / "eval" / "B.jsonl").write_bytes(content)
    with pytest.raises(BenchmarkError, match=f"B: {message}"):
        read(path, "B")


def test_jsonl_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [ROW]})
    (tmp_path / "eval" / "A" / "test-00000-of-00001.parquet").unlink()
    (tmp_path / "eval" / "A.jsonl").write_text(json.dumps(ROW), encoding="utf-8-sig")
    assert read(path)[0] == [ROW]


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [ROW]})
    (tmp_path / "eval" / "A" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(BenchmarkError, match=r"A: .*cannot be read as parquet"):
        read(path)


class FakeHub(types.ModuleType):
    """Stands in for `datasets`: answers with rows, or fails as it does offline."""

    def __init__(self, rows: list[Any] | Exception) -> None:
        super().__init__("datasets")
        self.rows = rows
        self.asked: list[Any] = []

    def load_dataset(self, source: str, subset: str | None, *, split: str, revision: str | None) -> Any:
        self.asked.append((source, subset, split, revision))
        if isinstance(self.rows, Exception):
            raise self.rows
        answer = HubRows(self.rows)
        answer.download_checksums = {f"hf://datasets/{source}@{'a' * 40}/{subset}/test-0.parquet": {}}
        return answer


class HubRows(list):
    download_checksums: dict[str, Any]
    features: dict[str, Any] = {}


def hub_benchmark(tmp_path: Path, **keys: Any) -> Path:
    return write_benchmark(tmp_path, {"A": [ROW]}, source="someone/data", **keys)


def test_hub_rows_come_with_the_commit_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub([ROW])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert read(hub_benchmark(tmp_path, revision="v1")) == ([ROW], "a" * 40)
    assert hub.asked == [("someone/data", "A", "test", "v1")]


def test_data_folder_is_read_instead_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(ConnectionError("not to be asked")))
    path = hub_benchmark(tmp_path / "file")
    write_jsonl(tmp_path / "copy" / "A.jsonl", [ROW])
    benchmark = load_benchmark(path, data=tmp_path / "copy")
    assert list(RowReader(benchmark).read(benchmark.tasks[0])) == [ROW]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach 'someone/data' on the Hub"), "cannot be downloaded: Couldn't reach.*--data"),
        (ValueError("BuilderConfig 'A' not found"), "cannot be read: BuilderConfig 'A' not found.*Check source"),
    ],
)
def test_hub_failures_are_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(error))
    with pytest.raises(BenchmarkError, match=f"A: the rows of someone/data .split 'test'. {message}"):
        read(hub_benchmark(tmp_path))


class PictureFeature:
    """Stands in for `datasets.Image`."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class PictureRows(HubRows):
    def cast_column(self, column: str, feature: PictureFeature) -> PictureRows:
        answer = PictureRows([{**row, column: "bytes" if not feature.decode else "opened"} for row in self])
        answer.download_checksums, answer.features = self.download_checksums, self.features
        return answer


def test_pictures_of_the_hub_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub([ROW | {"page": "opened"}])
    hub.Image = PictureFeature
    answer = hub.load_dataset

    def load_dataset(*arguments: Any, **options: Any) -> PictureRows:
        rows = answer(*arguments, **options)
        pictures = PictureRows(rows)
        pictures.download_checksums, pictures.features = rows.download_checksums, {"page": PictureFeature()}
        return pictures

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    rows, _ = read(hub_benchmark(tmp_path))
    assert rows[0]["page"] == "bytes"


def test_subsets_with_a_source_of_their_own_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub([ROW])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    own = {"meta_task": "x", "distribution": "in", "source": "other/data", "revision": "v2", "split": "dev"}
    tasks = {"A": own, "B": own | {"subset": ["one", "two"]}, "C": {"meta_task": "x", "distribution": "in"}}
    path = write_benchmark(tmp_path, {"A": [ROW]}, source="someone/data", revision="v1", tasks=tasks)
    benchmark = load_benchmark(path)
    reader = RowReader(benchmark)
    rows = [list(reader.read(task)) for task in benchmark.tasks]
    assert hub.asked == [
        ("other/data", None, "dev", "v2"),
        ("other/data", "one", "dev", "v2"),
        ("other/data", "two", "dev", "v2"),
        ("someone/data", "C", "test", "v1"),
    ]
    assert [row["subset"] for row in rows[1]] == ["one", "two"] and "subset" not in rows[0][0]


def test_many_commits_are_counted(tmp_path: Path) -> None:
    reader = RowReader(load_benchmark(write_benchmark(tmp_path, {"A": [ROW]})))
    reader._commits = {"a", "b", "c"}
    assert reader.revision == "a, b, c"
    reader._commits.add("d")
    assert reader.revision is not None and reader.revision.startswith("4 commits, together sha256:")
