from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import hub_snapshot, picture, write_video

from llave_hf.evaluation.video import frames as video_frames
from llave_hf.evaluation.video.frames import check_video, read_samples
from llave_hf.evaluation.video.protocols import PROTOCOLS
from llave_hf.model import media_llave
from llave_hf.model.media_llave import MediaError, Timeline, load_clip
from llave_hf.model.media_pictures_llave import Medium

COUNTS = (1, 3, 4, 8, 32)


def test_each_count_gets_the_frames_that_it_alone_would_get(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", range(0, 250, 5))  # 50 frames, 10 a second
    protocol = PROTOCOLS["clip4clip"]
    samples = read_samples(video, lambda timeline: [protocol.indices(timeline, count) for count in COUNTS])
    for count, frames in zip(COUNTS, samples, strict=True):
        alone = load_clip(video, max_frames=count).frames  # LLaVE's own sampling
        assert len(frames) == len(alone) == min(count, 17)
        assert all(np.array_equal(one, other) for one, other in zip(frames, alone, strict=True))
    assert {id(frame) for frame in samples[1]} & {id(frame) for frame in samples[-1]}  # shared, not copied


@pytest.mark.parametrize("total", [5, 64, 100, 977])
@pytest.mark.parametrize("count", [1, 4, 8, 64])
def test_mmeb_v2_samples_from_what_it_would_have_stored(total: int, count: int) -> None:
    stored = list(range(total)) if total <= 64 else [math.floor(i * total / 64) for i in range(64)]
    chosen = [stored[i] for i in np.linspace(0, len(stored) - 1, count, dtype=int)] if count <= len(stored) else stored
    assert PROTOCOLS["mmeb-v2"].indices(Timeline(total, 30.0), count) == chosen


def test_file_is_gone_through_twice_whatever_the_number_of_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "a.mp4", range(0, 200, 10))
    opened = []

    def recording(medium: Medium, open_video: object = media_llave.open_container) -> object:
        opened.append(medium.path)
        return open_video(medium)  # type: ignore[operator]

    monkeypatch.setattr(media_llave, "open_container", recording)
    read_samples(video, lambda timeline: [[0], [0, timeline.total - 1], list(range(timeline.total))])
    assert opened == [str(video), str(video)]


def test_folder_of_frames_is_read_in_natural_order_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        picture(8, 8, seed=number).save(tmp_path / f"{number}.png")
    opened = []

    def recording(path: Path, load: object = video_frames.load_image) -> object:
        opened.append(path.name)
        return load(path)  # type: ignore[operator]

    monkeypatch.setattr(video_frames, "load_image", recording)
    one, two = read_samples(tmp_path, lambda frames: [[2, frames.total - 1], [2, 10]] if frames.fps is None else [])
    assert opened == ["2.png", "10.png", "11.png"]
    assert np.array_equal(one[1], picture(8, 8, seed=11)) and one[0] is two[0]


def test_frame_that_links_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    picture().save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", tmp_path / "clip" / "0.png")
    with pytest.raises(MediaError, match="leads out"):
        check_video(tmp_path / "clip")


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("not a video")
    cut = write_video(tmp_path / "cut.mp4", range(10))
    cut.write_bytes(cut.read_bytes()[:200])
    for name in ("empty", "text.mp4", "cut.mp4"):
        with pytest.raises(MediaError, match=name):
            check_video(tmp_path / name)


def test_hidden_files_are_no_frames_and_a_snapshots_links_are(tmp_path: Path) -> None:
    picture(8, 8).save(tmp_path / "frame.png")
    content = (tmp_path / "frame.png").read_bytes()
    files = {f"clip/{number}.png": content for number in range(3)}
    snapshot = hub_snapshot(tmp_path, {**files, "clip/._1.png": b"\x00\x05\x16\x07", "clip/.DS_Store": b"x"})
    check_video(snapshot / "clip")
    (frames,) = read_samples(snapshot / "clip", lambda timeline: [range(timeline.total)])
    assert len(frames) == 3 and frames.seconds is None


def test_samples_have_the_frames_own_times(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", range(0, 250, 5))
    one, two = read_samples(video, lambda timeline: [[0, 10], [5]])
    assert one.seconds == pytest.approx([0, 1]) and two.seconds == pytest.approx([0.5])
    frames = [picture(16, 12, seed=seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[500, 4000, 100])
    check_video(tmp_path / "a.gif")
    protocol = PROTOCOLS["clip4clip"]
    (clip,) = read_samples(tmp_path / "a.gif", lambda timeline: [protocol.indices(timeline, 8)])
    assert clip.seconds == pytest.approx([0, 0.5, 4.5])
