"""Shards of tar in WebDataset's layout: read by place, streamed as everything else is, broken ones named."""

from __future__ import annotations

import gzip
import io
import logging
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset_reader
from tables import picture_bytes, write_archive

from llave_hf.data import StreamedBatches, load_pairs, stream_pairs
from llave_hf.data.sources.archive_samples import samples_of
from llave_hf.data.streaming import shards

BOTH = [load_pairs, stream_pairs]
ENTRY = {"query": "Find: {caption}", "positive": {"image": "png", "text": "{txt}"}}
SHARD = 6


def sample(row: int, **members: Any) -> tuple[str, dict[str, Any]]:
    own = {"png": picture_bytes(row), "json": {"caption": f"caption {row}", "n": row}, "txt": f"text {row}"}
    return f"sub.dir/{row:04d}", {name: value for name, value in {**own, **members}.items() if value is not None}


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    for shard in range(3):
        rows = range(shard * SHARD, (shard + 1) * SHARD)
        write_archive(tmp_path / f"shards/{shard:05d}.tar", [sample(row) for row in rows])
    return str(tmp_path / "shards/{00000..00002}.tar")


@pytest.mark.parametrize("load", BOTH)
def test_rows_are_those_of_datasets_own_reader(
    pattern: str, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)  # a shard begins inside an archive
    pairs = load([{"path": pattern, **ENTRY}])
    expected = list(webdataset_reader.read(sorted(Path(pattern).parent.glob("*.tar"))))
    assert len(pairs) == len(expected) == 3 * SHARD
    assert [source.name for source in pairs.sources] == ["shards"]
    for row, example in enumerate(expected):
        pair = pairs[row]
        assert pair.query.text == f"Find: {example['json']['caption']}"
        assert pair.positive.text == example["txt"]
        assert pair.positive.images[0].read() == example["png"]


@pytest.mark.parametrize("load", BOTH)
def test_a_folder_a_glob_and_fields_by_their_place(pattern: str, load: Callable[..., Any]) -> None:
    folder = str(Path(pattern).parent)
    described = {"query": "{json[caption]}: {n} of {__key__}", "positive": {"image": "image"}}
    for path in (folder, f"{folder}/*.tar", pattern):
        pairs = load([{"path": path, **described}])
        assert pairs[7].query.text == "caption 7: 7 of sub.dir/0007"
        assert pairs[7].positive.images[0].read() == picture_bytes(7)


def test_pictures_of_several_suffixes_are_image(tmp_path: Path) -> None:
    jpeg = picture_bytes(1, kind="JPEG")
    write_archive(tmp_path / "a.tar", [sample(0), sample(1, png=None, jpg=jpeg)])
    pairs = load_pairs([{"path": str(tmp_path / "a.tar"), **ENTRY, "positive": {"image": "image"}}])
    assert [pairs[row].positive.images[0].read() for row in range(2)] == [picture_bytes(0), jpeg]


def test_known_names_in_the_json(tmp_path: Path) -> None:
    row = {"qry": "q", "pos_text": "p", "neg_text": ["n", "m"]}
    write_archive(tmp_path / "a.tar", [("0", {"json": row})])
    for load in BOTH:
        pair = load(str(tmp_path / "a.tar"))[0]
        assert (pair.query.text, pair.positive.text, len(pair.negatives)) == ("q", "p", 2)
    write_archive(tmp_path / "b.tar", [("0", {"json": row, "jpg": picture_bytes(0)})])
    for load in BOTH:
        with pytest.raises(ValueError, match="pictures in the column 'jpg', which nobody reads"):
            load(str(tmp_path / "b.tar"))


def test_a_stream_of_archives_keeps_its_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 5)
    for task, rows in (("one", 24), ("two", 12)):
        for shard in range(2):
            own = range(shard, rows, 2)
            # Every picture stands in two rows, under two names: only its bytes say so.
            write_archive(
                tmp_path / task / f"{shard:05d}.tar", [sample(row, png=picture_bytes(row // 2)) for row in own]
            )
    entries = [
        {"path": str(tmp_path / task / "{00000..00001}.tar"), **ENTRY, "positive": {"image": "png"}, "weight": weight}
        for task, weight in (("one", 1.0), ("two", 2.0))
    ]

    def batches(epoch: int = 0, **settings: Any) -> list[list[Any]]:
        sampler = StreamedBatches(stream_pairs(entries), 4, buffer_size=12, seed=3, **settings)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = batches()
    assert all(len({pair.source for pair in batch}) == 1 for batch in first)
    drawn = Counter(batch[0].source for batch in first)
    assert drawn["two"] / drawn["one"] == pytest.approx(1.0, abs=0.35)  # twelve rows of weight two, 24 of one
    assert all(len({pair.positive.key() for pair in batch}) == 4 for batch in first)
    assert batches() == first  # a run that goes on in mid-epoch passes over what it had
    assert batches(1) != first
    ranks = [batches(world_size=2, rank=rank, avoid_repeats=False) for rank in range(2)]
    whole = [tuple(sorted(pair.row for part in parts for pair in part)) for parts in zip(*ranks, strict=True)]
    assert all(len(set(rows)) == 8 for rows in whole)


def test_a_stream_holds_no_pictures(pattern: str) -> None:
    pairs = stream_pairs([{"path": pattern, **ENTRY}])
    image = pairs[3].positive.images[0]
    assert image.digest and image.span[1] == len(picture_bytes(3))
    assert not any(isinstance(getattr(image, name), bytes) for name in image.__slots__)


def opened(path: Path, load: Callable[..., Any], **changes: Any) -> Any:
    pairs = load([{"path": str(path), **ENTRY, **changes}])
    return [pairs[row] for row in range(len(pairs))]


@pytest.mark.parametrize("load", BOTH)
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([sample(0), sample(1, png=None)], r"a.tar.*the sample 'sub.dir/0001' has no 'png'"),
        ([sample(0), sample(1, json=None)], r"a.tar.*the sample 'sub.dir/0001' has no 'caption'"),
        ([sample(0), sample(1, txt=None)], r"a.tar.*the sample 'sub.dir/0001' has no 'txt'"),
        ([sample(0), sample(1, json="{nonsense")], r"a.tar: the member sub.dir/0001.json cannot be read"),
        ([sample(0), sample(1, txt=b"\xff\xfe")], r"a.tar: the member sub.dir/0001.txt cannot be read"),
        ([sample(0), sample(1), sample(0)], r"a.tar: the members of sample 'sub.dir/0000' do not stand side by side"),
        ([sample(0), sample(0)], r"a.tar has the member 'sub.dir/0000.png' twice"),
    ],
)
def test_samples_that_are_not_whole_are_named(
    tmp_path: Path, samples: list[Any], message: str, load: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        opened(write_archive(tmp_path / "a.tar", samples), load)


@pytest.mark.parametrize("load", BOTH)
def test_broken_archives_are_named(tmp_path: Path, load: Callable[..., Any]) -> None:
    whole = write_archive(tmp_path / "whole.tar", [sample(row, png=bytes(2000)) for row in range(3)])
    content = whole.read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(content[:6000])
    with pytest.raises(ValueError, match=r"cut.tar ends inside the member 'sub.dir/0001.png'"):
        opened(cut, load)
    second = content.index(b"sub.dir/0001.png")
    cut.write_bytes(content[:second] + b"\xff" * 512 + content[second + 512 :])
    with pytest.raises(ValueError, match=r"cut.tar is broken behind 'sub.dir/0000.txt'"):
        opened(cut, load)
    cut.write_bytes(b"no archive at all" * 100)
    with pytest.raises(ValueError, match=r"cut.tar is no tar archive"):
        opened(cut, load)
    with gzip.open(tmp_path / "c.tar.gz", "wb") as packed:
        packed.write(content)
    with pytest.raises(ValueError, match=r"c.tar.gz.* is no .*unpack it"):
        opened(tmp_path / "c.tar.gz", load)
    shutil.copy(tmp_path / "c.tar.gz", tmp_path / "d.tar")
    with pytest.raises(ValueError, match=r"d.tar is no tar archive .*unpack it if it is compressed"):
        opened(tmp_path / "d.tar", load)


@pytest.mark.parametrize("load", BOTH)
def test_members_that_are_no_files_of_samples(tmp_path: Path, load: Callable[..., Any]) -> None:
    path = write_archive(tmp_path / "a.tar", [sample(row) for row in range(3)])
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive.getmembers()]

    def write(hard_link: bool) -> None:
        with tarfile.open(path, "w") as archive:
            for place, (member, content) in enumerate(members):
                for name in (
                    f"sub.dir/._{place}.png",
                    f"__MACOSX/sub.dir/._{place}.png",
                    "sub.dir/README",
                    "sub.dir/",
                ):
                    other = tarfile.TarInfo(name)  # what macOS and people leave between them
                    other.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                    archive.addfile(other)
                if hard_link and member.name == "sub.dir/0001.png":  # GNU tar writes the second name of a file so
                    member.type, member.linkname, member.size = tarfile.LNKTYPE, "sub.dir/0000.png", 0
                archive.addfile(member, io.BytesIO(content))

    write(hard_link=False)
    assert [pair.query.text for pair in opened(path, load)] == [f"Find: caption {row}" for row in range(3)]
    write(hard_link=True)
    with pytest.raises(ValueError, match=r"a.tar.*the sample 'sub.dir/0001' has no 'png'"):
        opened(path, load)


@pytest.mark.parametrize("load", BOTH)
def test_a_member_goes_before_a_field_of_the_json(tmp_path: Path, load: Callable[..., Any]) -> None:
    both = {"txt": "in the JSON", "caption": "c", "json": "itself", "__key__": "k", "image": "beside.png"}
    path = write_archive(tmp_path / "a.tar", [sample(0, json=both), sample(1, txt=None, json=both)])
    pairs = opened(path, load, query="{txt}: {json[caption]} of {__key__}", positive={"image": "image"})
    assert [pair.query.text for pair in pairs] == [
        "text 0: c of sub.dir/0000",
        "in the JSON: c of sub.dir/0001",
    ]
    assert [pair.positive.images[0].read() for pair in pairs] == [picture_bytes(row) for row in range(2)]


@pytest.mark.parametrize("load", BOTH)
def test_shards_that_are_not_there_are_named(pattern: str, load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"00003.tar and 1 more does not exist; correct the range"):
        load([{"path": pattern.replace("00002}", "00004}"), **ENTRY}])
    with pytest.raises(ValueError, match="matches no file"):
        load([{"path": str(Path(pattern).parent / "*.tat"), **ENTRY}])


def test_what_is_not_read_is_told_once(pattern: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    pairs = stream_pairs([{"path": pattern, **ENTRY}])
    assert len(np.unique([pairs[row].query.key() for row in range(len(pairs))])) == len(pairs)
    told = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert [one.rpartition(": ")[2] for one in told] == ["n"]


def test_a_path_in_the_json_stands_in_for_a_picture_that_is_not_there(tmp_path: Path) -> None:
    """Some samples have the picture as a member, others name one that lies beside the archive."""
    (tmp_path / "beside.png").write_bytes(picture_bytes(9))
    rows = [sample(0), sample(1, png=None, json={"caption": "caption 1", "png": "beside.png"}), sample(2)]
    path = write_archive(tmp_path / "a.tar", rows)
    pairs = load_pairs([{"path": str(path), "media_root": str(tmp_path), **ENTRY}])
    pictures = [pairs[row].positive.images[0] for row in range(3)]
    assert pictures[1] == "beside.png"
    assert [picture.read() for picture in pictures[::2]] == [picture_bytes(0), picture_bytes(2)]


def test_the_first_samples_are_whole_where_headers_are_read_in_batches(tmp_path: Path) -> None:
    """Headers are read 256 at first, of which the last is the first of a sample's three."""
    path = str(write_archive(tmp_path / "a.tar", [sample(row) for row in range(100)]))
    every = samples_of(path)
    assert len(every) == 100
    for rows in (1, 85, 86, 87, 100, 101):
        some = samples_of(path, rows=rows)
        assert some.keys.to_pylist() == every.keys.to_pylist()[:rows]
        assert np.array_equal(some.offsets, every.offsets[: rows + 1])
        assert np.array_equal(some.firsts, every.firsts[: some.offsets[-1]])
