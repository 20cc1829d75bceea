from __future__ import annotations

from pathlib import Path

import pytest
from helpers import hub_snapshot, picture, write_video

from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.video.files import find_caption_files, find_videos


def test_videos_are_found_in_linked_folders_within(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "own" / "deep").mkdir(parents=True)
    write_video(root / "own" / "deep" / "a.mp4", range(4))
    (root / "own" / "deep" / "._a.mp4").write_bytes(b"\x00\x05\x16\x07")
    (root / "clips" / "b").mkdir(parents=True)
    picture().save(root / "clips" / "b" / "0.png")
    (root / "again").symlink_to("own")  # the same video is no second one
    (root / "clips" / "b" / "loop").symlink_to(root)
    found = find_videos({"a": "row 0", "b": "row 1"}, root)
    assert found["a"].resolve() == root / "own" / "deep" / "a.mp4" and found["b"] == root / "clips" / "b"


def test_folders_that_were_not_looked_into_are_told(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write_video(tmp_path / "disk" / "a.mp4", range(4))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "videos").symlink_to(tmp_path / "disk")
    with pytest.raises(BenchmarkError, match="Not looked into: 1 linked folders that lead out of the folder"):
        find_videos({"a": "row 0"}, tmp_path / "root")


def test_a_snapshot_of_the_hubs_cache_holds_captions_and_videos(tmp_path: Path) -> None:
    content = write_video(tmp_path / "a.mp4", range(4)).read_bytes()
    captions = "data/test_1k-00000-of-00001.parquet"
    hidden = {"data/._test_1k-00000-of-00001.parquet": b"\x00\x05\x16\x07"}
    snapshot = hub_snapshot(tmp_path, {"videos/a.mp4": content, captions: b"", **hidden})
    assert find_videos({"a": "row 0"}, snapshot) == {"a": snapshot / "videos" / "a.mp4"}
    assert find_caption_files("msrvtt-1ka", snapshot) == [snapshot / captions]
