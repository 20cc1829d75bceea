"""Pictures that lie in the tables themselves: named, read when needed, one content wherever they stand."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from tables import hub_rows, picture_bytes, stored, write_archive

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.data import LlaveCollator, MediaError, load_pairs, load_sample, stream_pairs
from llave_hf.data.samples import Sample
from llave_hf.data.stored import groups
from llave_hf.data.stored.pictures import StoredPicture
from llave_hf.data.vectors.content_digests import ContentDigests
from llave_hf.training.recovery.bad_samples import TracedCollator

ENTRY = {"query": "{caption}", "positive": {"image": "picture"}}
COUNT = 7


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    for kept in (groups._small_group, groups._kept_group):
        kept.cache_clear()
    return home


@pytest.fixture
def containers(tmp_path: Path) -> dict[str, str]:
    """The same captions and pictures in each container, of several row groups, files or shards where it has them."""
    captions = [f"caption {row}" for row in range(COUNT)]
    hub = hub_rows({"caption": captions, "picture": [stored(row) for row in range(COUNT)]}, ["picture"])
    hub.to_parquet(tmp_path / "hub.parquet", batch_size=3)
    hub.save_to_disk(tmp_path / "saved", num_shards=2)
    plain = pa.table({"caption": captions, "picture": pa.array([picture_bytes(row) for row in range(COUNT)])})
    pq.write_table(plain, tmp_path / "bytes.parquet", row_group_size=2)
    pq.write_table(
        plain.set_column(
            1, "picture", pa.array([[picture_bytes(row)] for row in range(COUNT)], pa.list_(pa.binary()))
        ),
        tmp_path / "lists.parquet",
    )
    rows = [(f"{row:03d}", {"png": picture_bytes(row), "json": {"caption": captions[row]}}) for row in range(COUNT)]
    write_archive(tmp_path / "tars/00000.tar", rows[:4])
    write_archive(tmp_path / "tars/00001.tar", rows[4:])
    return {
        "hub": str(tmp_path / "hub.parquet"),
        "saved": str(tmp_path / "saved"),
        "bytes": str(tmp_path / "bytes.parquet"),
        "lists": str(tmp_path / "lists.parquet"),
        "tars": str(tmp_path / "tars/{00000..00001}.tar"),
    }


def entry(containers: dict[str, str], name: str) -> dict[str, Any]:
    return {**ENTRY, "path": containers[name], **({"positive": {"image": "png"}} if name == "tars" else {})}


@pytest.mark.parametrize("load", [load_pairs, stream_pairs])
def test_each_container_has_the_same_pictures(containers: dict[str, str], tmp_path: Path, load: Callable) -> None:
    keys, digests = [], []
    for name in containers:
        pairs = [load([entry(containers, name)])[row] for row in range(COUNT)]
        assert [pair.query.text for pair in pairs] == [f"caption {row}" for row in range(COUNT)]
        for row, pair in enumerate(pairs):
            (image,) = pair.positive.images
            assert isinstance(image, StoredPicture)
            assert image.read() == picture_bytes(row)
            assert load_sample(pair.positive)["images"][0].size == (12, 12)
        keys.append([pair.positive.key() for pair in pairs])
        digests.append(ContentDigests().keys([pair.positive for pair in pairs]).tolist())
    assert all(own == keys[0] for own in keys)
    (tmp_path / "a.png").write_bytes(picture_bytes(0))
    file = ContentDigests().keys([Sample(images=("a.png",), media_root=str(tmp_path))]).tolist()
    assert all(own[:1] == file for own in digests)  # vectors of a file serve the same picture in a table


@pytest.mark.parametrize("path", ["", "p.png"])
def test_known_names_take_pictures(tmp_path: Path, path: str) -> None:
    columns: dict[str, list[Any]] = {
        "qry": ["<|image_1|>\nwhat?", "what else?", "a text"],
        "qry_image": [stored(0), stored(1), None],
        "pos_text": ["one", "two", ""],
        "pos_image_path": [None, None, {"bytes": None, "path": path}],
    }
    if not path:
        columns["pos_text"][2] = "three"
    (tmp_path / "p.png").write_bytes(picture_bytes(5))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # datasets would put the file's bytes there
    table = {name: pa.array(values, kind if "image" in name else pa.string()) for name, values in columns.items()}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    for load in (load_pairs, stream_pairs):
        pairs = [load(str(tmp_path / "t.parquet"))[row] for row in range(3)]
        assert [pair.query.text for pair in pairs] == ["\nwhat?", "what else?", "a text"]
        assert [len(pair.query.images) for pair in pairs] == [1, 1, 0]
        assert pairs[1].query.images[0].row == 1
        assert pairs[2].positive.images == ((path,) if path else ())
        assert load_sample(pairs[2].positive).get("images", []) == [] or path


def test_lists_of_pictures_are_several_of_one_sample_or_a_negative_each(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "q": ["a", "b", "c"],
        "views": [[stored(0), stored(1)], [stored(2)], [stored(3)]],
        "wrong": [[stored(4)], [], [stored(5), stored(6)]],
    }
    hub_rows(columns, ["views", "wrong"]).to_parquet(tmp_path / "t.parquet")
    described = {"query": "{q}", "positive": {"image": "views"}, "negatives": {"image": "wrong"}}
    for load in (load_pairs, stream_pairs):
        pairs = [load([{"path": str(tmp_path / "t.parquet"), **described}])[row] for row in range(3)]
        assert [image.read() for image in pairs[0].positive.images] == [picture_bytes(0), picture_bytes(1)]
        assert [[n.images[0].read() for n in pair.negatives] for pair in pairs] == [
            [picture_bytes(4)],
            [],
            [picture_bytes(5), picture_bytes(6)],
        ]


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts of read bytes are Linux's")
@pytest.mark.parametrize("missing", [None, 3])
def test_pictures_are_not_read_at_the_start(tmp_path: Path, missing: int | None) -> None:
    count, size = 40, 100_000
    columns = {
        "caption": [f"caption {row}" for row in range(count)],
        "picture": [{"bytes": bytes([row]) * size, "path": None} for row in range(count)],
    }
    if missing is not None:
        columns["picture"][missing] = {"bytes": None, "path": "there.png"}
        (tmp_path / "there.png").write_bytes(picture_bytes(0))
    hub_rows(columns, ["picture"]).to_parquet(tmp_path / "t.parquet", batch_size=4)
    start = bytes_read()
    pairs = load_pairs([{"path": str(tmp_path / "t.parquet"), **ENTRY}])
    read = bytes_read() - start
    # Only of the row group where one is missing has the file no other word than its bytes.
    assert read < (2 if missing is None else 6) * size  # of 40
    start = bytes_read()
    picture = pairs[9].positive.images[0]
    assert picture.read() == bytes([9]) * size
    assert bytes_read() - start < 6 * size  # its row group
    assert len(pickle.dumps(pairs[9])) < 1000
    assert pickle.loads(pickle.dumps(pairs[9])) == pairs[9]


def test_a_large_row_group_is_kept_as_it_is_read(
    containers: dict[str, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "SMALL", 0)
    picture = load_pairs([entry(containers, "hub")])[4].positive.images[0]
    assert picture.read() == picture_bytes(4)
    assert len(list(cache.rglob("*.arrow"))) == 1
    assert not list(cache.rglob("*.unfinished"))
    groups._kept_group.cache_clear()

    def never(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(groups, "_read_group", never)
    assert picture.read() == picture_bytes(4)
    assert load_pairs([entry(containers, "hub")])[3].positive.images[0].read() == picture_bytes(3)


def test_without_room_pictures_are_read_all_the_same(
    containers: dict[str, str], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(groups, "SMALL", 0)
    (cache / "llave_hf").write_text("a file where the folder should be")
    groups._tell_of_no_room.cache_clear()
    pairs = load_pairs([entry(containers, "hub")])
    assert [pairs[row].positive.images[0].read() for row in (1, 5)] == [picture_bytes(1), picture_bytes(5)]
    assert caplog.text.count("Row groups cannot be kept") == 1


def test_a_file_that_was_written_again_is_read_again(
    containers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "SMALL", 0)
    picture = load_pairs([entry(containers, "hub")])[4].positive.images[0]
    assert picture.read() == picture_bytes(4)
    columns = {"caption": ["other"] * COUNT, "picture": [stored(100 + row) for row in range(COUNT)]}
    hub_rows(columns, ["picture"]).to_parquet(containers["hub"])
    assert picture.read() == picture_bytes(104)
    hub_rows({name: values[:2] for name, values in columns.items()}, ["picture"]).to_parquet(containers["hub"])
    with pytest.raises(MediaError, match=r"hub.parquet, row 4, column 'picture' cannot be read .*has 2 rows"):
        picture.read()


def test_a_path_cannot_pass_for_a_place(tmp_path: Path) -> None:
    place = StoredPicture("/etc/passwd", 0, "x", 0, (0, 9)).encoded()
    (tmp_path / "t.jsonl").write_text(json.dumps({"qry": "q", "pos_text": "<|image_1|>", "pos_image_path": place}))
    with pytest.raises(ValueError, match=r"row 0 of 't' .*zero byte"):
        load_pairs(str(tmp_path / "t.jsonl"))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = pa.array([{"bytes": None, "path": place}], kind)
    pq.write_table(pa.table({"q": ["a"], "picture": values}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t.parquet, row 0, column 'picture': the path holds a zero byte"):
        load_pairs([{"path": str(tmp_path / "t.parquet"), "query": "{q}", "positive": {"image": "picture"}}])


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_a_bad_picture_is_named(tmp_path: Path, tiny: tuple[LlaveModel, LlaveProcessor], content: bytes) -> None:
    rows = {"caption": ["a", "b"], "picture": [stored(0), {"bytes": content, "path": None}]}
    hub_rows(rows, ["picture"]).to_parquet(tmp_path / "t.parquet")
    pairs = load_pairs([{"path": str(tmp_path / "t.parquet"), **ENTRY}])
    with pytest.raises(MediaError, match=r"^t, row 1: .*t.parquet, row 1, column 'picture'"):
        LlaveCollator(tiny[1])([pairs[0], pairs[1]])


def test_equal_bytes_in_two_rows_are_one_sample(tmp_path: Path, tiny: tuple[LlaveModel, LlaveProcessor]) -> None:
    rows = {"caption": ["a", "b", "c"], "picture": [stored(0), stored(0, "another name"), stored(1)]}
    hub_rows(rows, ["picture"]).to_parquet(tmp_path / "t.parquet")
    pairs = load_pairs([{"path": str(tmp_path / "t.parquet"), **ENTRY}])
    batch = LlaveCollator(tiny[1])([pairs[row] for row in range(3)])
    first, second, third = batch["document_ids"].tolist()
    assert first == second != third
    assert batch["document_index"][0] == batch["document_index"][1] != batch["document_index"][2]
    assert sum(len(one["input_ids"]) for one in batch["micro_batches"]) == 5


def test_a_batch_reads_a_picture_once_for_its_content_and_once_to_open_it(
    tmp_path: Path, tiny: tuple[LlaveModel, LlaveProcessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"caption": ["a", "b", "c"], "picture": [stored(0), stored(0, "another name"), stored(1)]}
    hub_rows(rows, ["picture"]).to_parquet(tmp_path / "t.parquet")
    pairs = load_pairs([{"path": str(tmp_path / "t.parquet"), **ENTRY}])
    read, real = [], StoredPicture.read

    def counted(picture: StoredPicture) -> bytes:
        read.append(picture.row)
        return real(picture)

    monkeypatch.setattr(StoredPicture, "read", counted)
    LlaveCollator(tiny[1])([pairs[row] for row in range(3)])
    assert sorted(read) == [0, 0, 1, 2, 2]  # row 1 has the picture of row 0, which is opened for both


def test_a_run_that_passes_over_bad_pictures_names_their_places(
    tmp_path: Path, tiny: tuple[LlaveModel, LlaveProcessor]
) -> None:
    rows = {"caption": ["a", "b"], "picture": [stored(0), {"bytes": b"no picture", "path": None}]}
    hub_rows(rows, ["picture"]).to_parquet(tmp_path / "t.parquet")
    pairs = load_pairs([{"path": str(tmp_path / "t.parquet"), **ENTRY}])
    collator = TracedCollator(LlaveCollator(tiny[1]), pairs, skip=True, unusable={1: "another sample"})
    batch = collator([pairs[0], pairs[1]])
    (report,) = json.loads(json.dumps(batch["bad_samples"]))
    assert (report["row"], report["role"]) == (1, "positive")
    assert report["files"] == [f"{tmp_path}/t.parquet, row 1, column 'picture'"]
    assert batch["document_ids"][0] == batch["document_ids"][1]
