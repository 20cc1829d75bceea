"""Video subsets of MMEB-V2: rows in the published columns, prompts to the byte as VLM2Vec-V2's parsers make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_helpers import RecordingEncoder, constant_encoder
from mmeb_v2_data import FRAMES, read_rows, write_frames, write_rows

from llave_hf.evaluation import check_benchmark, evaluate_benchmark, load_benchmark
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.raw import RawInput

QUESTION = (
    "<|video_1|> Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question:  "
)
UNDERSTAND = "<|video_1|> Understand the content of the provided video."


def read(tmp_path: Path, name: str, row: dict[str, Any], table: str = "", split: str = "test") -> Any:
    write_rows(tmp_path / name, table, [row], split)
    return read_rows(tmp_path, name)[0]


def texts(row: Any) -> list[str]:
    return [candidate.text for candidate in row.candidates]


@pytest.mark.parametrize(
    ("name", "row", "query", "folder", "table", "split"),
    [
        (
            "MSR-VTT",
            {"video_id": "video7020", "video": "video7020.mp4", "caption": "a woman sings"},
            "Find a video that contains the following visual content: a woman sings",
            "MSR-VTT/video7020",
            "test_1k",
            "test",
        ),
        (
            "MSVD",
            {"video_id": "abc_1_9", "video": "abc_1_9.avi", "caption": ["a cat eats", "food"]},
            "Find the video snippet that corresponds to the given summary: a cat eats",
            "MSVD/abc_1_9",
            "",
            "test",
        ),
        (
            "DiDeMo",
            {"video": "test/54322086@N00_2408598493_274c77d26a.avi", "caption": "a dog. it runs."},
            "Find a video that includes the following described scenes: a dog. it runs.",
            "DiDeMo/54322086@N00_2408598493_274c77d26a",
            "",
            "test",
        ),
        (
            "VATEX",
            {"videoID": "G9zN5TTuGO4_000179_000189", "enCap": ["he climbs", "up"]},
            "Select a video that fits the description provided: he climbs",
            "VATEX/G9zN5TTuGO4_000179_000189",
            "",
            "test",
        ),
        (
            "YouCook2",
            {"id": "xHr8X2Wpmno_0", "video_path": "v/xHr8X2Wpmno_0.mp4", "sentence": "chop it"},
            "Find a video that demonstrates the following action while making a recipe: chop it",
            "YouCook2/xHr8X2Wpmno_0",
            "",
            "val",
        ),
    ],
)
def test_retrieval(
    tmp_path: Path, name: str, row: dict[str, Any], query: str, folder: str, table: str, split: str
) -> None:
    found = read(tmp_path, name, row, table, split)
    assert found.query == RawInput(query, (), "")
    assert found.candidates == [RawInput(UNDERSTAND, (), folder)]


@pytest.mark.parametrize(
    ("name", "label", "prompt", "folder", "classes"),
    [
        ("K700", "yoga", "Recognize the category of the video content.", "K700/v1", 700),
        (
            "HMDB51",
            "wave",
            "What actions or objects interactions are the person in the video doing?",
            "HMDB51/v1",
            51,
        ),
        (
            "UCF101",
            "YoYo",
            "What activities or sports are being performed by the person in the video?",
            "UCF101/v1",
            101,
        ),
        (
            "Breakfast",
            "tea",
            "Recognize the breakfast type that the person is cooking in the video. ",
            "Breakfast/v1",
            10,
        ),
    ],
)
def test_classification(tmp_path: Path, name: str, label: str, prompt: str, folder: str, classes: int) -> None:
    row = read(tmp_path, name, {"video_id": "v1", "pos_text": label})
    assert row.query == RawInput(f"<|video_1|> {prompt}", (), folder)
    assert texts(row)[0] == label and len(set(texts(row))) == classes
    with pytest.raises(BenchmarkError, match=f"{name}, row 0: pos_text is 'swim in tea': as text that is none of"):
        read(tmp_path, name, {"video_id": "v1", "pos_text": "swim in tea"})


def test_classification_among_the_options_of_the_row(tmp_path: Path) -> None:
    row = {"video_id": 74225, "pos_text": "Closing something", "neg_text": ["Opening something", "Closing something"]}
    found = read(tmp_path, "SmthSmthV2", row)
    assert found.query == RawInput(
        "<|video_1|> What actions or object interactions are being performed by the person in the video?",
        (),
        "SSv2/74225",
    )
    assert texts(found) == ["Closing something", "Opening something"]


def test_only_the_first_rows_count_where_the_benchmark_says_so(tmp_path: Path) -> None:
    row = {"video_id": 1, "pos_text": "a", "neg_text": ["a", "b"]}
    write_rows(tmp_path / "SmthSmthV2", "", [row] * 1001)
    assert len(read_rows(tmp_path, "SmthSmthV2")) == 1000


def test_questions_with_lettered_options(tmp_path: Path) -> None:
    row = {"video": "166583.webm", "question": "Which way?", "candidates": ["Left.", "Right."], "answer": "Right."}
    selected = load_benchmark("mmeb-v2").select(["MVBench"]).tasks[0]
    assert len(selected.subset) == 20
    for name in selected.subset:
        write_rows(tmp_path / "MVBench", name, [row], "train")
    rows = read_rows(tmp_path, "MVBench")
    assert len(rows) == 20
    assert rows[1].query == RawInput(
        f"{QUESTION}Which way?\nOptions:\n(A) Left.\n(B) Right.", (), "MVBench/action_sequence/166583.webm"
    )
    assert texts(rows[1]) == ["(B) Right.", "(A) Left."]


def test_questions_with_options_on_lines(tmp_path: Path) -> None:
    row = {
        "videoID": "fFjv93ACGo8",
        "question": "How many?",
        "options": ["A. One tree.", "B. Two. Or three.", "C. 3.", "D. None"],
        "answer": "B",
    }
    found = read(tmp_path, "Video-MME", row)
    assert found.query == RawInput(
        f"{QUESTION}How many?\nA. One tree.\nB. Two. Or three.\nC. 3.\nD. None", (), "Video-MME/fFjv93ACGo8"
    )
    assert texts(found) == ["Two. Or three", "One tree", "3", "None"]
    with pytest.raises(BenchmarkError, match="Video-MME, row 0: answer is 'E': as letter that is none of"):
        read(tmp_path, "Video-MME", row | {"answer": "E"})


def test_questions_with_options_in_columns(tmp_path: Path) -> None:
    options = {f"a{number}": option for number, option in enumerate(["run", "sit", "eat", "cry", "sing "])}
    row = {"video": 4010069381, "question": "what does he do", "answer": 2, "qid": 6, "type": "CW", **options}
    found = read(tmp_path, "NExTQA", row, "MC")
    assert found.query == RawInput(
        f"{QUESTION}what does he do\nOptions:\n(A) run\n(B) sit\n(C) eat\n(D) cry\n(E) sing", (), "NExTQA/4010069381"
    )
    assert texts(found) == ["eat", "run", "sit", "cry", "sing "]


def test_questions_with_options_behind_them(tmp_path: Path) -> None:
    row = {"video_idx": "b1", "question": "Why?", "option": ["A. For fun.", "B. To eat."], "answer": "1"}
    found = read(tmp_path, "EgoSchema", row, "Subset")
    assert found.query == RawInput(f"{QUESTION}Why?A. For fun. B. To eat.", (), "EgoSchema/b1")
    assert texts(found) == ["To eat", "For fun"]


def test_questions_with_yes_and_no(tmp_path: Path) -> None:
    row = {"video_name": "xyz", "question": "is he tall", "answer": "no", "question_id": "xyz_1"}
    found = read(tmp_path, "ActivityNetQA", row)
    assert found.query == RawInput(f"{QUESTION}is he tall? (A) yes; (B) no.", (), "ActivityNetQA/v_xyz")
    assert texts(found) == ["no", "yes"]


@pytest.mark.parametrize(("name", "folder"), [("QVHighlight", "QVHighlight"), ("Charades-STA", "Charades_STA")])
def test_moments_are_the_folders_beside_the_query(tmp_path: Path, name: str, folder: str) -> None:
    for clip in ("query", "negative_1", "positive", "negative_0"):
        write_frames(tmp_path, f"video_mret/{folder}/AO8RW/{clip}")
    (tmp_path / FRAMES / "video_mret" / folder / "AO8RW" / "info.json").write_text("{}")
    row = {"query": "a person sits down", "video_path": "videos/AO8RW.mp4"}
    found = read(tmp_path, name, row)
    assert found.query == RawInput(
        "<|video_1|> Find the clip that corresponds to the described scene in the given video: a person sits down",
        (),
        f"{folder}/AO8RW/query",
    )
    clips = [f"{folder}/AO8RW/{clip}" for clip in ("positive", "negative_0", "negative_1")]
    assert found.candidates == [RawInput(UNDERSTAND, (), clip) for clip in clips]
    with pytest.raises(BenchmarkError, match=f"{name}, row 0: folder: .*gone does not exist"):
        read(tmp_path, name, row | {"video_path": "gone.mp4"})
    write_frames(tmp_path, f"video_mret/{folder}/odd/negative_0")
    with pytest.raises(BenchmarkError, match=f"{name}, row 0: folder: {folder}/odd has no folder .*'positive'"):
        read(tmp_path, name, row | {"video_path": "odd.mp4"})


@pytest.mark.parametrize(
    ("input_frames", "query"),
    [
        ("", RawInput("Find the clip that corresponds to the given text: he waves", (), "")),
        (
            "cartoon_1.jpg",
            RawInput(
                "<|image_1|> Select the video clip that aligns with the given text and image: he waves",
                ("query_cartoon_1.jpg",),
                "",
            ),
        ),
        (
            "videos/ego/19_334.00_338.00.mp4",
            RawInput(
                "<|video_1|> Find the clip that corresponds to the given sentence and video segment: he waves",
                (),
                "video_frames/videos_ego_19_334.00_338.00",
            ),
        ),
    ],
)
def test_moments_in_lists_by_the_kind_of_query(tmp_path: Path, input_frames: str, query: RawInput) -> None:
    row = {
        "query": "he waves",
        "input_frames": input_frames,
        "positive_frames": [{"output_path": "videos/ego/1_0.5_2.0.mp4"}, {"output_path": "videos/ego/2.mp4"}],
        "negative_frames": [{"output_path": "videos/ego/3.mp4"}],
    }
    found = read(tmp_path, "MomentSeeker", row)
    assert found.query == query and found.answers == 2
    text = "<|video_1|> Understand the content of the provided video clip."
    folders = ["videos_ego_1_0.5_2.0", "videos_ego_2", "videos_ego_3"]
    assert found.candidates == [RawInput(text, (), f"video_frames/{folder}") for folder in folders]


def write_retrieval(tmp_path: Path, frames: int = 2) -> None:
    rows = [{"video_id": f"v{n}", "video": f"v{n}.avi", "caption": [f"caption {n}"]} for n in range(4)]
    write_rows(tmp_path / "MSVD", "", rows)
    for number in range(4):
        write_frames(tmp_path, f"video_ret/MSVD/v{number}", frames, green=number)


@pytest.mark.parametrize(("stored", "seen"), [(20, np.linspace(0, 19, 8, dtype=int)), (8, range(8)), (3, range(3))])
def test_eight_frames_are_taken_from_those_that_are_stored(tmp_path: Path, stored: int, seen: Any) -> None:
    write_retrieval(tmp_path, stored)
    encoder = constant_encoder()
    benchmark = load_benchmark("mmeb-v2", data=tmp_path).select(["MSVD"])
    evaluate_benchmark(encoder, benchmark, show_progress=False)
    videos = [entry["video"] for entry in encoder.seen if isinstance(entry, dict)]
    assert len(videos) == 4
    assert [[frame.getpixel((0, 0))[0] for frame in video] for video in videos] == [list(seen)] * 4


def test_right_video_is_found_among_all(tmp_path: Path) -> None:
    write_retrieval(tmp_path)

    def vector(entry: Any) -> np.ndarray:
        video = entry["video"][0].getpixel((0, 0))[1] if isinstance(entry, dict) else int(entry[-1])
        return np.eye(4)[video]

    benchmark = load_benchmark("mmeb-v2", data=tmp_path).select(["MSVD"])
    task = evaluate_benchmark(RecordingEncoder(vector), benchmark, show_progress=False).to_dict()["tasks"]["MSVD"]
    assert (task["precision_at_1"], task["candidates"], task["n"], task["modality"]) == (1.0, 4, 4, "video")


def test_missing_and_empty_folders_of_frames_are_named(tmp_path: Path) -> None:
    write_retrieval(tmp_path)
    for name in ("v1", "v2"):
        for frame in (tmp_path / FRAMES / "video_ret/MSVD" / name).iterdir():
            frame.unlink()
    (tmp_path / FRAMES / "video_ret/MSVD/v2").rmdir()
    with pytest.raises(BenchmarkError, match="2 picture or video file") as raised:
        check_benchmark(load_benchmark("mmeb-v2", data=tmp_path), ["MSVD"])
    assert "MSVD, row 1, target: " in str(raised.value) and "MSVD/v1 holds no frame" in str(raised.value)
    assert "MSVD, row 2, target: " in str(raised.value) and "MSVD/v2 does not exist" in str(raised.value)


def test_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"^MSVD, row 0, query lacks the column 'caption' .it has video_id..$"):
        read(tmp_path, "MSVD", {"video_id": "v"})
    with pytest.raises(BenchmarkError, match=r"^MSVD, row 0, query: caption\[0\] cannot be read"):
        read(tmp_path, "MSVD", {"video_id": "v", "caption": []})
