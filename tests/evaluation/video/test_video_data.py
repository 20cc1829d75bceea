from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import picture
from video_helpers import CAPTIONS, LEVELS, hub_rows, write_hub, write_msrvtt, write_msvd, write_videos

from llave_hf.evaluation import BenchmarkError
from llave_hf.evaluation.video.data import VideoSet, read_video_set


def contents(videos: VideoSet) -> dict[str, list[str]]:
    return {video.name: list(video.captions) for video in videos.videos}


def test_layouts_of_msvd_say_the_same(tmp_path: Path) -> None:
    clip4clip = read_video_set("msvd", write_msvd(tmp_path / "clip4clip"))
    hub = read_video_set("msvd", write_hub(tmp_path / "hub", hub_rows(), "data/test"))
    assert contents(clip4clip) == contents(hub) == CAPTIONS
    assert [video.name for video in clip4clip.videos] == [video.name for video in hub.videos] == list(LEVELS)
    assert clip4clip.revision != hub.revision
    assert clip4clip.videos[0].place.endswith("raw-captions.json, video10")


def test_layouts_of_msrvtt_say_the_same(tmp_path: Path) -> None:
    first = {name: texts[:1] for name, texts in CAPTIONS.items()}
    assert contents(read_video_set("msrvtt-1ka", write_msrvtt(tmp_path / "csv"))) == first
    for number, place in enumerate(("test_1k/test", "data/msrvtt_test_1k")):
        folder = write_hub(tmp_path / f"hub{number}", hub_rows(first_only=True), place)
        assert contents(read_video_set("msrvtt-1ka", folder)) == first
    write_videos(tmp_path / "json")
    for name, text in (
        ("msrvtt_test_1k.json", json.dumps(hub_rows(first_only=True))),
        ("rows.jsonl", "\n".join(map(json.dumps, hub_rows(first_only=True)))),
    ):
        (tmp_path / "json" / name).write_text(text)
        assert contents(read_video_set("msrvtt-1ka", tmp_path / "json", tmp_path / "json" / name)) == first


def test_quoted_lines_of_a_csv_are_one_caption(tmp_path: Path) -> None:
    folder = write_msrvtt(tmp_path, {"video3": ['a "big",\nwet dog']})
    assert contents(read_video_set("msrvtt-1ka", folder)) == {"video3": ['a "big",\nwet dog']}


def test_videos_may_lie_elsewhere_and_be_folders_of_frames(tmp_path: Path) -> None:
    folder = write_msrvtt(tmp_path / "data", {"video3": ["dusk"]})
    (tmp_path / "frames" / "video3").mkdir(parents=True)
    picture().save(tmp_path / "frames" / "video3" / "frame_0001.png")
    (video,) = read_video_set("msrvtt-1ka", folder, videos=tmp_path / "frames").videos
    assert video.path == tmp_path / "frames" / "video3"


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("the pickle was opened",)


def test_pickle_is_refused_unopened_and_not_needed_beside_json(tmp_path: Path) -> None:
    folder = write_msvd(tmp_path)
    (folder / "msvd_data" / "raw-captions.pkl").write_bytes(pickle.dumps(Bomb()))
    assert contents(read_video_set("msvd", folder)) == CAPTIONS
    (folder / "msvd_data" / "raw-captions.json").unlink()
    with pytest.raises(BenchmarkError, match=r"raw-captions.pkl is a pickle.*JSON instead.*video id -> list"):
        read_video_set("msvd", folder)


def error_of(folder: Path, dataset: str = "msrvtt-1ka", **options: Any) -> str:
    with pytest.raises(BenchmarkError) as caught:
        read_video_set(dataset, folder, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video_id,sentence\nvideo3,\n", r"row 0: column 'sentence' must hold a text"),
        ("video_id,sentence\nvideo3,a\nvideo3,b\n", r"row 1: video video3 is already that of .*row 0"),
        ("id,sentence\n1,a\n", r"row 0: column 'video_id' must hold a text, not None"),
        ("video_id,sentence\n", "names no video"),
    ],
)
def test_errors_of_a_csv_name_file_and_row(tmp_path: Path, text: str, message: str) -> None:
    folder = write_msrvtt(tmp_path)
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(text)
    found = error_of(folder)
    assert "MSRVTT_JSFUSION_test.csv" in found and re.search(message, found), found


def test_errors_of_captions(tmp_path: Path) -> None:
    folder = write_msvd(tmp_path / "msvd")
    captions = folder / "msvd_data" / "raw-captions.json"
    captions.write_text(json.dumps(CAPTIONS | {"video7": ["fine", "  "]}))
    assert "raw-captions.json, video7: captions must be" in error_of(folder, "msvd")
    captions.write_text(json.dumps({"video10": ["night"]}))
    assert "test_list.txt, line 2: raw-captions.json has no captions of video3" in error_of(folder, "msvd")
    captions.write_text("{")
    assert "raw-captions.json cannot be read as json" in error_of(folder, "msvd")
    captions.write_text("5")
    assert "raw-captions.json must hold an object or a list of rows, not 5" in error_of(folder, "msvd")
    captions.write_text(json.dumps(CAPTIONS))
    listed = folder / "msvd_data" / "test_list.txt"
    listed.write_text("video3\n\nvideo3\n")
    assert re.search(
        r"test_list.txt, line 3: video3 stands in .*test_list.txt, line 1 already", error_of(folder, "msvd")
    )
    listed.write_bytes(b"caf\xe9")
    assert "test_list.txt is no text in UTF-8" in error_of(folder, "msvd")
    listed.unlink()
    captions.write_text(json.dumps(CAPTIONS))
    assert "test_list.txt is missing" in error_of(folder, "msvd")
    hub = write_hub(tmp_path / "hub", hub_rows(), "test_1k/test")
    assert "row 0: 3 captions; MSR-VTT 1k-A has one a video" in error_of(hub)


def test_caption_file_must_be_there_and_be_one(tmp_path: Path) -> None:
    write_videos(tmp_path)
    assert "holds no captions of msvd: expected test_list.txt" in error_of(tmp_path, "msvd")
    assert "There is no caption file gone.csv" in error_of(tmp_path, captions=Path("gone.csv"))
    assert "The folder nowhere does not exist" in error_of(Path("nowhere"))
    for name in ("one_test_1k.json", "two_test_1k.json"):
        (tmp_path / name).write_text(json.dumps(hub_rows(first_only=True)))
    assert "several caption files (one_test_1k.json, two_test_1k.json)" in error_of(tmp_path)


def test_videos_that_cannot_be_used_are_counted_and_named_with_their_rows(tmp_path: Path) -> None:
    folder = write_msrvtt(tmp_path)
    videos = folder / "videos"
    (videos / "video10.mp4").unlink()
    (videos / "video3.mp4").write_text("no video")
    (folder / "again").mkdir()
    (folder / "again" / "video7.webm").write_bytes((videos / "video7.mp4").read_bytes())
    message = error_of(folder)
    assert message.startswith("3 of 4 video(s) cannot be used")
    assert "test.csv, row 0: there is no video video10.mp4" in message
    assert "row 1: " in message and "video3.mp4 cannot be decoded" in message
    assert "row 2: the video video7 is there 2 times" in message
