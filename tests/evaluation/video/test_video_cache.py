"""`evaluate_videos` with a cache: what is encoded again, and that the results are the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model, write_video
from video_helpers import LEVELS, LevelEncoder, distinct, write_msvd

from llave_hf import cli
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.errors import UserError
from llave_hf.evaluation.retrieval import vectors
from llave_hf.evaluation.video import frames as video_frames
from llave_hf.evaluation.video import inputs as video_inputs
from llave_hf.evaluation.video.retrieval import evaluate_videos

CAPTIONS, CLIPS = 9, 8  # of clip4clip with two numbers of frames


@pytest.fixture
def msvd(tmp_path: Path) -> Path:
    return write_msvd(tmp_path / "data")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Videos that were decoded."""
    names: list[str] = []

    def recording(path: Path, choose: Any) -> Any:
        names.append(path.stem)
        return video_frames.read_samples(path, choose)

    monkeypatch.setattr(video_inputs, "read_samples", recording)
    return names


@pytest.fixture(autouse=True)
def pieces_by_number_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(vectors, "PIECE_SECONDS", 1e9)
    yield


def run(model: Any, data: Path, cache: Path | None, **options: Any) -> dict[str, Any]:
    options = {"protocol": "clip4clip", "frames": [2, 4], "model_revision": "v1", "batch_size": 1} | options
    return evaluate_videos(
        model, "msvd", data=data, cache=cache, show_progress=False, model_name="m", **options
    ).to_dict()


def test_second_run_encodes_nothing_and_opens_no_video(msvd: Path, tmp_path: Path, opened: list[str]) -> None:
    without = run(distinct(), msvd, None)
    first, second = distinct(), distinct()
    assert run(first, msvd, tmp_path / "cache") == without
    opened.clear()
    assert run(second, msvd, tmp_path / "cache") == without
    assert len(first.seen) == CAPTIONS + CLIPS and second.seen == [] and opened == []


@pytest.mark.parametrize(
    ("options", "encoded"),
    [
        ({"frames": [2, 3, 4]}, CLIPS // 2),
        ({"frames": [4]}, 0),
        ({"protocol": "mmeb-v2"}, 4 + CLIPS),  # a caption a video; other prompts and other frames
        ({"model_revision": "v2"}, CAPTIONS + CLIPS),
    ],
)
def test_only_what_is_new_is_encoded(msvd: Path, tmp_path: Path, options: dict[str, Any], encoded: int) -> None:
    run(distinct(), msvd, tmp_path / "cache")
    model = distinct()
    assert run(model, msvd, tmp_path / "cache", **options) == run(distinct(), msvd, None, **options)
    assert len(model.seen) == encoded


def test_changed_video_is_encoded_and_counted_again(msvd: Path, tmp_path: Path) -> None:
    run(distinct(), msvd, tmp_path / "cache")
    write_video(msvd / "YouTubeClips" / "video7.mp4", [LEVELS["video7"]] * 3)
    model = distinct()
    results = run(model, msvd, tmp_path / "cache")
    assert results == run(distinct(), msvd, None)
    assert [len(entry["video"]) for entry in model.seen] == [1, 1]  # one of three frames, three a second
    assert results["tasks"]["text_to_video, 4 frames"]["mean_frames"] == (4 + 4 + 1 + 4) / 4


def test_video_of_another_name_is_known_by_its_content(msvd: Path, tmp_path: Path) -> None:
    run(distinct(), msvd, tmp_path / "cache")
    moved = msvd / "YouTubeClips" / "elsewhere" / "video7.avi"
    moved.parent.mkdir()
    (msvd / "YouTubeClips" / "video7.mp4").rename(moved)
    run(model := distinct(), msvd, tmp_path / "cache")
    assert model.seen == []


class Dying(LevelEncoder):
    """Ended from outside after some inputs."""

    def __init__(self, lives: int) -> None:
        super().__init__(distinct().vector)
        self.lives = lives

    def encode(self, inputs: list[Any], **options: Any) -> Any:
        if len(self.seen) + len(inputs) > self.lives:
            raise KeyboardInterrupt
        return super().encode(inputs, **options)


def test_stopped_run_goes_on(msvd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BATCHES_PER_CHUNK", 1)
    whole = run(distinct(), msvd, None)
    with pytest.raises(KeyboardInterrupt):
        run(dying := Dying(5), msvd, tmp_path / "cache")
    again = distinct()
    assert run(again, msvd, tmp_path / "cache") == whole
    assert (len(dying.seen), len(again.seen)) == (5, CAPTIONS + CLIPS - 5)


def test_visual_tokens_come_from_the_cache(msvd: Path, tmp_path: Path, opened: list[str]) -> None:
    model, processor = tiny_model()
    calls: list[int] = []

    class Counting(LlaveEncoder):
        def encode(self, inputs: Any, **options: Any) -> Any:
            calls.append(len(inputs))
            return super().encode(inputs, **options)

    first = run(Counting(model, processor), msvd, tmp_path / "cache", model_revision=None)
    assert sum(calls) == CAPTIONS + CLIPS
    calls.clear(), opened.clear()
    assert run(Counting(model, processor), msvd, tmp_path / "cache", model_revision=None) == first
    assert calls == [] and opened == []
    assert first["tasks"]["text_to_video, 4 frames"]["visual_tokens"] == 17


def test_encoder_without_weights_needs_a_name_for_them(msvd: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give model_revision"):
        run(distinct(), msvd, tmp_path / "cache", model_revision=None)


def test_command_has_the_option(msvd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "llave_hf.encoding.sentence_transformer.load_encoder", lambda path: LlaveEncoder(*tiny_model())
    )
    monkeypatch.setattr("llave_hf.runtime.places._check_hub", lambda *_: None)  # my/model is there
    monkeypatch.setattr("llave_hf.evaluation.evaluate.path_revision", lambda model: "0123abc")  # its commit there
    command = f"evaluate-videos my/model --dataset msvd --protocol mmeb-v2 --data {msvd} --output {tmp_path / 'out'}"
    cli.main([*command.split(), "--cache", str(tmp_path / "cache")])
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2  # vectors; frames and visual tokens
