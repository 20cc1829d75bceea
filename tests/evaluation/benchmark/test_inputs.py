from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

import pytest
from datasets import Dataset
from datasets import Image as HubImage
from evaluation_helpers import make_row, write_benchmark, write_jsonl
from helpers import hub_snapshot, picture
from huggingface_hub import constants
from PIL import Image

from llave_hf.evaluation.benchmark.collection import TaskInputs, collect_inputs
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.inputs import DistinctInputs
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.evaluation.benchmark.raw import RawInput
from llave_hf.evaluation.benchmark.rows import RowReader

MARK = "<|image_1|>\nRepresent the given image.\n"


def collect(path: Path) -> tuple[DistinctInputs, list[TaskInputs]]:
    benchmark = load_benchmark(path)
    return collect_inputs(benchmark, RowReader(benchmark))


def test_each_content_has_one_number_over_all_subsets(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    rows = {
        "A": [make_row("q", ["x", "y"]), make_row("x", ["q", "z"])],
        "B": [make_row(MARK, ["y", MARK, "z"], image="p.png", target_images=["", "p.png", ""])],
    }
    inputs, (first, second) = collect(write_benchmark(tmp_path, rows))
    q, x, y, z, picture = range(5)
    assert first.queries.tolist() == [q, x]
    assert [pool.tolist() for pool in first.pools] == [[x, y], [q, z]]
    assert (second.queries.tolist(), [pool.tolist() for pool in second.pools]) == ([picture], [[y, picture, z]])
    assert len(inputs) == 5
    assert [inputs.load(number) for number in range(4)] == ["q", "x", "y", "z"]


def test_repeated_candidates_are_counted_once_and_repeated_answers_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [make_row("q", ["a", "b"]), make_row("q", ["a", "b", "a", "c", "b"]), make_row("q", ["d", "e", "e"])]
    with caplog.at_level(logging.WARNING):
        inputs, (task,) = collect(write_benchmark(tmp_path, {"A": rows}))
    assert [[inputs.load(number) for number in pool] for pool in task.pools] == [
        ["a", "b"],
        ["a", "b", "c"],
        ["d", "e"],
    ]
    assert task.duplicates == 3
    assert task.findings == {"repeated_answer": [1], "repeated_row": [1]}
    message, repeated = caplog.messages
    assert message.startswith("A: in 1 row(s) the answer stands again") and message.endswith("(row 1).")
    assert repeated.startswith("A: in 1 row(s) query and answer are those of an earlier row")


def test_digest_tells_what_was_asked_wherever_it_lies_and_beside_whatever(tmp_path: Path) -> None:
    rows = [make_row("q", ["a", "b", "c"]), make_row(MARK, ["d", "e"], image="p.png")]

    def digest(name: str, chosen: list[dict], **others: list[dict]) -> str:
        write_benchmark(tmp_path / name, {**others, "A": chosen})
        Image.new("RGB", (8, 8)).save(tmp_path / name / "p.png")
        return collect(tmp_path / name / "benchmark.yaml")[1][-1].digest

    whole = digest("one", rows)
    assert digest("other", rows, Z=[make_row("e", ["d", "a"])]) == whole
    assert digest("order", [make_row("q", ["a", "c", "b"]), rows[1]]) == whole
    changed = [rows[:1], [make_row("q", ["b", "a", "c"]), rows[1]], [make_row("q", ["a", "b"]), rows[1]]]
    assert whole not in {digest(f"changed{number}", chosen) for number, chosen in enumerate(changed)}


def test_empty_wrong_candidate_is_an_empty_text_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        inputs, (task,) = collect(write_benchmark(tmp_path, {"A": [make_row("q", ["a", ""])]}))
    assert inputs.load(int(task.pools[0][1])) == ""
    assert "A: in 1 row(s) a wrong candidate has no text" in caplog.text


def test_inputs_are_loaded_in_the_form_that_encode_takes(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for name in ("1.png", "2.png", "clip/0.png", "clip/1.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    row = make_row(MARK, ["<|image_1|>", MARK], image="1.png", target_images=[["1.png", "2.png"], ["clip"]])
    inputs, (task,) = collect(write_benchmark(tmp_path, {"A": [row]}))
    query = inputs.load(int(task.queries[0]))
    pictures, clip = (inputs.load(int(number)) for number in task.pools[0])
    assert isinstance(query, dict) and isinstance(pictures, dict) and isinstance(clip, dict)
    assert query["text"] == "\nRepresent the given image.\n" and query["image"].size == (8, 6)
    assert set(pictures) == {"image"} and len(pictures["image"]) == 2
    assert set(clip) == {"text", "video"} and len(clip["video"]) == 2


def test_encoding_order_keeps_kinds_and_lengths_together(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    rows = [make_row("a longer text", ["mid text", MARK, "s"], target_images=["", "p.png", ""])]
    inputs, _ = collect(write_benchmark(tmp_path, {"A": rows}))
    ordered = [inputs.load(int(number)) for number in inputs.encoding_order()]
    assert ordered[:3] == ["s", "mid text", "a longer text"] and isinstance(ordered[3], dict)


def test_missing_files_are_counted_and_named_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = {
        "A": [make_row("q", ["a", "b"])],
        "B": [
            make_row(MARK, ["a", "b"], image="broken.png"),
            *(make_row(MARK, ["a", "b"], image=f"gone{number}.png") for number in range(7)),
        ],
    }
    with pytest.raises(BenchmarkError, match="7 picture or video file") as raised:
        collect(write_benchmark(tmp_path, rows))
    message = str(raised.value)
    assert "B, row 1: " in message and "gone0.png" in message and str(tmp_path) in message
    assert "gone4.png" in message and "gone5.png" not in message


@pytest.mark.parametrize("path", ["../outside.png", "/etc/outside.png", "https://example.org/p.png"])
def test_paths_that_leave_the_media_folder_are_refused(tmp_path: Path, path: str) -> None:
    inside = tmp_path / "inside"
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    with pytest.raises(BenchmarkError, match="A, row 0: "):
        collect(write_benchmark(inside, {"A": [make_row(MARK, ["a", "b"], image=path)]}))


def test_broken_picture_is_named_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [make_row("q", ["a"]), make_row(MARK, ["a"], image="broken.png")]
    inputs, (task,) = collect(write_benchmark(tmp_path, {"A": rows}))
    with pytest.raises(BenchmarkError, match=r"A, row 1: .*broken\.png"):
        inputs.load(int(task.queries[1]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (make_row(MARK, ["a"]), "row 0: the text .* marks a picture, but no path is given"),
        (make_row("q", ["a"]) | {"qry_video_path": "a.mp4", "qry_img_path": "b.mp4"}, "row 0: .*2 videos"),
    ],
)
def test_unusable_sides_are_named(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(BenchmarkError, match=f"A, {message}"):
        collect(write_benchmark(tmp_path, {"A": [row]}))


def test_subset_without_rows_is_refused(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [make_row("q", ["a"])]})
    (tmp_path / "eval" / "A" / "test-00000-of-00001.parquet").unlink()
    (tmp_path / "eval" / "A.jsonl").write_text("\n")
    with pytest.raises(BenchmarkError, match="A has no rows"):
        collect(path)


def test_pictures_without_a_media_folder_ask_for_data() -> None:
    from llave_hf.evaluation.benchmark.raw import RawInput

    with pytest.raises(BenchmarkError, match=r"A, row 0 needs p.png: say with --data"):
        DistinctInputs(None).add(RawInput("q", ("p.png",), ""), "A, row 0")


def test_half_a_character_is_named_with_its_row(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [make_row("q", ["a", "b"])]})
    (tmp_path / "eval" / "A" / "test-00000-of-00001.parquet").unlink()
    write_jsonl(tmp_path / "eval" / "A.jsonl", [make_row("q", ["a"]), make_row("q", ["a", "\ud83d x"])])
    with pytest.raises(BenchmarkError, match=r"A, row 1: .*half a character"):
        collect(path)


# ------------------------------------------------------------------------------------------------- forms of a picture


def encoded(kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture().save(stream, kind)
    return stream.getvalue()


def data_uri() -> str:
    return "data:image/png;base64," + base64.b64encode(encoded()).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_rows_may_hold_their_pictures(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    content = encoded(kind)
    for value in (content, {"bytes": content, "path": "name.png"}, {"bytes": content, "path": None}):
        candidates = [value, {"bytes": encoded("PNG"), "path": None} if isinstance(value, dict) else encoded("PNG")]
        row = make_row(MARK, [MARK, MARK], image=value, target_images=candidates)
        inputs, (task,) = collect(write_benchmark(tmp_path, {"A": [row]}))
        assert inputs.load(int(task.queries[0]))["image"].size == (40, 30)
        assert len(inputs) == (1 if kind == "PNG" else 2)


def test_what_datasets_writes_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    path = write_benchmark(tmp_path, {"A": [make_row(MARK, ["a", "b"], image="x")]})
    rows = Dataset.from_list([{**make_row(MARK, ["a", "b"]), "qry_img_path": picture()}])
    assert isinstance(rows.features["qry_img_path"], HubImage)
    rows.to_parquet(tmp_path / "eval" / "A" / "test-00000-of-00001.parquet")
    inputs, (task,) = collect(path)
    assert inputs.load(int(task.queries[0]))["image"].size == (40, 30)


def test_data_uris_need_no_folder(tmp_path: Path) -> None:
    row = make_row(MARK, ["a", MARK], image=data_uri(), target_images=["", data_uri()])
    path = write_benchmark(tmp_path, {"A": [row]})
    inputs, (task,) = collect(path)
    assert inputs.load(int(task.queries[0]))["image"].size == (40, 30)
    assert inputs.content_keys(task.queries).shape == (1, 2)
    alone = DistinctInputs(None)
    alone.add(RawInput("q", (data_uri(),), "").within("folder"), "A, row 0")
    alone.check_media()
    assert alone.load(0)["image"].size == (40, 30)


def test_pictures_that_cannot_be_kept_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hub"))
    for value, message in ((b"words", "the bytes begin with b'words'"), ({"bytes": None, "path": None}, "neither")):
        with pytest.raises(BenchmarkError, match=f"A, row 0: qry_img_path: .*{message}"):
            collect(write_benchmark(tmp_path, {"A": [make_row(MARK, ["a", "b"], image=value)]}))


def test_hidden_files_are_neither_rows_nor_frames(tmp_path: Path) -> None:
    for name in ("clip", "empty"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    picture().save(tmp_path / "clip" / "0.png")
    path = write_benchmark(tmp_path, {"A": [make_row(MARK, ["a", "b"], image="clip")]})
    folder = tmp_path / "eval" / "A" / "test"
    folder.mkdir()
    (tmp_path / "eval" / "A" / "test-00000-of-00001.parquet").rename(folder / "0.parquet")
    (folder / "._0.parquet").write_bytes(b"\x00\x05\x16\x07")
    inputs, (task,) = collect(path)
    assert len(inputs.load(int(task.queries[0]))["video"]) == 1
    with pytest.raises(BenchmarkError, match="empty holds no frame"):
        collect(write_benchmark(tmp_path, {"B": [make_row(MARK, ["a", "b"], image="empty")]}))


def test_a_benchmark_in_the_hubs_cache(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path / "own", {"A": [make_row(MARK, ["a", "b"], image="images/p.png")]})
    names = ["benchmark.yaml", "eval/A/test-00000-of-00001.parquet"]
    files = {name: (path.parent / name).read_bytes() for name in names} | {"images/p.png": encoded()}
    snapshot = hub_snapshot(tmp_path, files)
    inputs, (task,) = collect(snapshot / "benchmark.yaml")
    assert inputs.load(int(task.queries[0]))["image"].size == (40, 30)
    (tmp_path / "linked.yaml").symlink_to(path)  # what a file names lies beside the link
    with pytest.raises(BenchmarkError, match="source 'eval' is neither an existing folder"):
        collect(tmp_path / "linked.yaml")
