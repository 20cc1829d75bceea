from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import tiny_model
from PIL import Image
from video_helpers import CAPTIONS, LEVELS, LevelEncoder, distinct, hub_rows, write_hub, write_msrvtt, write_msvd

from llave_hf import cli
from llave_hf.data.samples import strip_marks
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.errors import UserError
from llave_hf.evaluation import compare_results
from llave_hf.evaluation.scoring.resampling import bootstrap_interval
from llave_hf.evaluation.video import frames as video_frames
from llave_hf.evaluation.video import inputs as video_inputs
from llave_hf.evaluation.video.data import read_video_set
from llave_hf.evaluation.video.protocols import PROTOCOLS
from llave_hf.evaluation.video.retrieval import evaluate_videos

QUERY = "Find me an video that matches the given caption: "


@pytest.fixture(scope="module")
def msvd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msvd(tmp_path_factory.mktemp("msvd"))


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msrvtt(tmp_path_factory.mktemp("msrvtt"))


def evaluate(model: Any, dataset: str, protocol: str, data: Path, **options: Any) -> dict[str, Any]:
    return evaluate_videos(model, dataset, protocol, data, show_progress=False, **options).to_dict()


def constant() -> LevelEncoder:
    return LevelEncoder(lambda _: [0.3, -0.2, 0.7])


def tied() -> LevelEncoder:
    """One of three directions for everything: cosines are 0 or 1."""
    return LevelEncoder(lambda key: np.eye(3)[sum(str(key).encode()) % 3])


def dense(cosines: list[list[float]], k: int) -> tuple[list[float], list[float]]:
    """By hand: the probability that each query's own candidate is among the first k, and its expected rank."""
    found, ranks = [], []
    for own, row in cosines:
        above, ties = sum(score > row[own] for score in row), sum(score == row[own] for score in row)
        places = range(above + 1, above + ties + 1)
        found.append(sum(place <= k for place in places) / ties)
        ranks.append(sum(places) / ties)
    return found, ranks


def unit(vector: Any) -> np.ndarray:
    return np.asarray(vector, dtype=np.float32) / np.linalg.norm(np.asarray(vector, dtype=np.float32))


@pytest.mark.parametrize("make", [distinct, tied])
@pytest.mark.parametrize("protocol", ["clip4clip", "mmeb-v2"])
def test_both_directions_are_what_the_definition_says(make: Any, protocol: str, msvd: Path) -> None:
    model = make()
    results = evaluate(model, "msvd", protocol, msvd, frames=[4])
    prompt = results["protocol"]["query_prompt"]
    chosen = {name: texts if protocol == "clip4clip" else texts[:1] for name, texts in CAPTIONS.items()}
    names = list(LEVELS)
    videos = {name: unit(model.vector(LEVELS[name])) for name in names}
    texts = {name: [unit(model.vector(prompt + text)) for text in chosen[name]] for name in names}
    to_video = [
        (own, [float(text @ videos[name]) for name in names]) for own, o in enumerate(names) for text in texts[o]
    ]
    to_text = [
        (own, [max(float(videos[o] @ text) for text in texts[name]) for name in names]) for own, o in enumerate(names)
    ]
    for direction, cosines in (("text_to_video", to_video), ("video_to_text", to_text)):
        task = results["tasks"][f"{direction}, 4 frames"]
        for k in (1, 5, 10):
            assert task[f"recall_at_{k}"] == pytest.approx(np.mean(dense(cosines, k)[0]), abs=1e-12)
        ranks = dense(cosines, 1)[1]
        assert task["median_rank"] == np.median(ranks) and task["mean_rank"] == pytest.approx(np.mean(ranks))
        assert (task["n"], task["candidates"]) == (len(cosines), 4)
        assert task["recall_at_1_ci95"] == list(bootstrap_interval(dense(cosines, 1)[0]))


def test_captions_of_one_wrong_video_cost_a_video_one_rank(msvd: Path) -> None:
    """All captions of video8 are nearer to video3 than its own is: CLIP4Clip counts them once, so R@5 is whole."""
    near = {QUERY + text: [1.0, 0.0] for text in CAPTIONS["video8"]} | {QUERY + "dusk": [1.0, 0.3]}
    model = LevelEncoder(lambda key: near.get(key, [0.0, -1.0]) if isinstance(key, str) else [1.0, 0.0])
    results = evaluate_videos(model, "msvd", "clip4clip", msvd, frames=[2], show_progress=False)
    ranks = results.ranks["video_to_text"][0]
    assert ranks.above[list(LEVELS).index("video3")] == 1


@pytest.mark.parametrize("protocol", ["clip4clip", "mmeb-v2"])
def test_constant_encoder_is_chance_in_both_directions(protocol: str, msvd: Path) -> None:
    for task in evaluate(constant(), "msvd", protocol, msvd, frames=[2, 3])["tasks"].values():
        assert task["recall_at_1"] == task["chance"] == 0.25
        assert task["median_rank"] == task["mean_rank"] == 2.5 and task["recall_at_5"] == 1.0


def test_protocols_ask_different_questions(msvd: Path) -> None:
    seen = {}
    for protocol in ("clip4clip", "mmeb-v2"):
        model = constant()
        results = evaluate(model, "msvd", protocol, msvd)
        texts = [entry for entry in model.seen if isinstance(entry, str)]
        videos = [entry for entry in model.seen if not isinstance(entry, str)]
        assert {video["text"] for video in videos} == {results["protocol"]["video_prompt"]}
        seen[protocol] = len(texts), {len(video["video"]) for video in videos}, results["benchmark"]
        assert all(text.startswith(results["protocol"]["query_prompt"]) for text in texts)
    # nine different captions, one of them of two videos; 12 frames at 10 a second: every third, or eight of them
    assert seen["clip4clip"] == (9, {4}, "msvd, protocol clip4clip")
    assert seen["mmeb-v2"] == (4, {8}, "msvd, protocol mmeb-v2")


def test_prompts_are_the_papers(msrvtt: Path) -> None:
    model = constant()
    evaluate(model, "msrvtt-1ka", "clip4clip", msrvtt)
    assert model.seen[0]["text"] == "Represent the given video." and QUERY + "dusk" in model.seen


def test_prompts_of_mmeb_v2_are_those_of_the_bundled_benchmark() -> None:
    text = (resources.files("llave_hf.evaluation") / "benchmarks" / "mmeb-v2.yaml").read_text(encoding="utf-8")
    tasks, protocol = yaml.safe_load(text)["tasks"], PROTOCOLS["mmeb-v2"]
    for dataset, name, column in (("msrvtt-1ka", "MSR-VTT", "{caption}"), ("msvd", "MSVD", "{caption[0]}")):
        assert tasks[name]["query"] == protocol.query_prompts[dataset] + column
        assert strip_marks(tasks[name]["target"]["text"]) == protocol.video_prompt


def test_a_video_is_opened_once_for_all_numbers_of_frames(msvd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def recording(path: Path, choose: Any) -> Any:
        opened.append(path.stem)
        return video_frames.read_samples(path, choose)

    monkeypatch.setattr(video_inputs, "read_samples", recording)
    model = constant()
    results = evaluate(model, "msvd", "mmeb-v2", msvd, frames=[8, 1, 3, 12, 64], batch_size=2)
    assert sorted(opened) == sorted(LEVELS)
    frames = [len(entry["video"]) for entry in model.seen if not isinstance(entry, str)]
    assert frames == [1, 3, 8, 12, 12] * 4  # no video has more than 12
    measured = [results["tasks"][f"video_to_text, {count} frames"]["mean_frames"] for count in (1, 3, 8, 12, 64)]
    assert measured == [1, 3, 8, 12, 12]


def test_visual_tokens_are_the_processors_whatever_its_own_frames(msvd: Path) -> None:
    model, processor = tiny_model(processor={"num_frames": 1, "max_frames": 2, "max_length": 40})
    encoder = LlaveEncoder(model, processor)
    results = evaluate(encoder, "msvd", "mmeb-v2", msvd, frames=[1, 4, 8])
    assert (processor.num_frames, processor.max_frames, processor.max_length) == (1, 2, 40)
    frames = [Image.new("RGB", (32, 24))] * 4
    ids = processor(text=[""], videos=[frames], num_frames=4, max_frames=4, max_length=100)["input_ids"]
    tokens = [results["tasks"][f"text_to_video, {count} frames"]["visual_tokens"] for count in (1, 4, 8)]
    assert tokens == [5, int((ids == processor.video_token_id).sum()), 33]  # four a frame, and a newline
    assert results["dtype"] == "float32" and results["model_revision"].startswith("sha256:")


def test_all_frames_reach_the_model(msvd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_model(processor={"max_frames": 2})
    seen: list[int] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **batch: seen.extend(frames_in(batch)) or forward(**batch))
    for cost in ("CHEAP_TRIAL", "MAX_TRIAL_COST"):
        monkeypatch.setattr(f"llave_hf.encoding.lean_decoding.{cost}", 0)  # trials of shortcuts are forwards too
    evaluate(LlaveEncoder(model, processor), "msvd", "mmeb-v2", msvd, frames=[2, 8])
    assert sorted(seen) == [2] * 4 + [8] * 4


def frames_in(batch: dict[str, Any]) -> list[int]:
    return batch["video_num_frames"].tolist() if "video_num_frames" in batch else []


def test_results_of_two_protocols_are_never_compared(msvd: Path, tmp_path: Path) -> None:
    for name, protocol, model in (
        ("a", "clip4clip", distinct()),
        ("b", "clip4clip", tied()),
        ("c", "mmeb-v2", tied()),
    ):
        evaluate(model, "msvd", protocol, msvd, frames=[4, 8], output_dir=tmp_path / name)
    assert len(compare_results(tmp_path / "a", tmp_path / "b").tasks) == 4
    with pytest.raises(UserError, match=r"msvd, protocol clip4clip, .* msvd, protocol mmeb-v2"):
        compare_results(tmp_path / "a", tmp_path / "c")


def test_other_captions_are_another_question(tmp_path: Path) -> None:
    write_hub(tmp_path / "one", hub_rows(), "test")
    rows = hub_rows()
    rows[1]["caption"] = ["dawn"]
    write_hub(tmp_path / "two", rows, "test")
    for name in ("one", "two"):
        evaluate(constant(), "msvd", "mmeb-v2", tmp_path / name, output_dir=tmp_path / name / "out")
    with pytest.raises(UserError, match="of another data revision"):
        compare_results(tmp_path / "one" / "out", tmp_path / "two" / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "msrvtt"}, "no data set 'msrvtt': choose msrvtt-1ka or msvd"),
        ({"protocol": "v2"}, "no protocol 'v2': choose clip4clip or mmeb-v2"),
        ({"frames": [0, 4]}, "at least 1"),
        ({"protocol": "mmeb-v2", "frames": [65]}, "at most 64, as mmeb-v2 keeps no more"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(changes: dict[str, Any], message: str) -> None:
    arguments = {"model": "none", "dataset": "msvd", "protocol": "clip4clip", "data": "nowhere"} | changes
    with pytest.raises(UserError, match=message):
        evaluate_videos(**arguments)


def test_broken_video_is_named_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.runtime.places._check_hub", lambda *_: None)  # the id is on the Hub
    folder = write_msvd(tmp_path)
    (folder / "YouTubeClips" / "video7.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"raw-captions.json, video7: .*video7.mp4 cannot be decoded"):
        evaluate("my/model", "msvd", "clip4clip", folder)


def test_command_writes_table_and_curve(
    msvd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llave_hf.encoding.sentence_transformer.load_encoder", lambda path: tied())
    monkeypatch.setattr("llave_hf.runtime.places._check_hub", lambda *_: None)  # my/model is there
    monkeypatch.setattr("llave_hf.evaluation.evaluate.path_revision", lambda model: "0123abc")  # its commit there
    output = tmp_path / "out"
    options = ["--dataset", "msvd", "--protocol", "clip4clip", "--data", str(msvd), "--frames", "4", "2"]
    cli.main(["evaluate-videos", "my/model", *options, "--output", str(output)])
    printed = capsys.readouterr().out
    assert (output / "results.md").read_text() in printed
    assert "# msvd, protocol clip4clip: my/model" in printed and "**Not the test of msvd**: 4 videos" in printed
    results = json.loads((output / "results.json").read_text())
    with (output / "curve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["direction"], row["frames"], row["protocol"]) for row in rows] == [
        (direction, frames, "clip4clip") for direction in ("text_to_video", "video_to_text") for frames in ("2", "4")
    ]
    best = results["tasks"]["video_to_text, 4 frames"]
    assert float(rows[3]["recall_at_1"]) == best["recall_at_1"]
    assert float(rows[3]["recall_at_1_high"]) == best["recall_at_1_ci95"][1]
    with Image.open(output / "curve.png") as image:
        assert image.width > 400


def test_shares_of_ranks_keep_a_videos_clips_together(msvd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = video_inputs.VideoInputs(read_video_set("msvd", msvd), PROTOCOLS["clip4clip"], [2, 4], None)
    monkeypatch.setattr("llave_hf.distributed.world_size", lambda: 3)
    order = inputs.encoding_order()
    assert sorted(order) == list(range(len(inputs))) == list(range(9 + 8))
    homes = [{number: rank for rank in range(3) for number in order[rank::3].tolist()}[clip] for clip in range(9, 17)]
    assert homes[::2] == homes[1::2] and len(set(homes)) == 3


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_find_the_same(msvd: Path, tmp_path: Path) -> None:
    model, processor = tiny_model()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    command = ["-m", "llave_hf.cli", "evaluate-videos", str(tmp_path / "model"), "--dataset", "msvd"]
    command += ["--protocol", "clip4clip", "--data", str(msvd), "--frames", "2", "4", "--output"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    for name, head in (("one", []), ("two", launch)):
        whole = [sys.executable, *head, *command, str(tmp_path / name)]
        said = subprocess.run(whole, check=True, env=environment, capture_output=True, text=True).stderr
        assert said.count("msvd has 670 videos, not 4") == (2 if head else 1)  # each process says so
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one == two and one["tasks"]["video_to_text, 4 frames"]["visual_tokens"] == 17
