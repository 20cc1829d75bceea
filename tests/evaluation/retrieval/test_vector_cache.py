from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_helpers import RecordingEncoder, make_row, write_benchmark
from PIL import Image

from llave_hf.errors import UserError
from llave_hf.evaluation import evaluate_benchmark
from llave_hf.evaluation.retrieval import vectors


def text_vector(entry: Any) -> list[float]:
    if not isinstance(entry, str):
        return [0.5, float(entry["image"].getpixel((0, 0))[0]), 1.0]
    return [float(len(entry)), float(sum(entry.encode()) % 97), -1.0]


def run(model: Any, benchmark: Path, cache: Path | None, **options: Any) -> dict[str, Any]:
    options = {"model_revision": "v1", "model_name": "m", "batch_size": 1, "show_progress": False} | options
    return evaluate_benchmark(model, benchmark, cache=cache, **options).to_dict()


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), (3, 0, 0)).save(tmp_path / "p.png")
    rows = [make_row(f"query {n}", [f"word {n + m}" for m in range(4)]) for n in range(20)]
    rows.append(make_row("<|image_1|>\nWhich?\n", ["word 1", "word 2"], image="p.png"))
    return write_benchmark(tmp_path, {"A": rows})


def test_second_run_encodes_nothing_and_gives_the_same_results(benchmark: Path, tmp_path: Path) -> None:
    first, second = RecordingEncoder(text_vector), RecordingEncoder(text_vector)
    without = run(RecordingEncoder(text_vector), benchmark, None)
    assert run(first, benchmark, tmp_path / "cache") == without
    assert run(second, benchmark, tmp_path / "cache") == without
    assert len(first.seen) == 44 and second.seen == []
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".safetensors"}


def test_other_benchmark_encodes_only_what_is_new_to_it(benchmark: Path, tmp_path: Path) -> None:
    run(RecordingEncoder(text_vector), benchmark, tmp_path / "cache")
    other = tmp_path / "other"
    rows = [make_row("query 3", ["word 4", "something new"])]
    rows.append(make_row("<|image_1|>\nWhich?\n", ["word 1"], image="copy.png"))
    path = write_benchmark(other, {"B": rows})
    (other / "copy.png").write_bytes((benchmark.parent / "p.png").read_bytes())
    model = RecordingEncoder(text_vector)
    run(model, path, tmp_path / "cache")
    assert model.seen == ["something new"]


@pytest.mark.parametrize("change", ["revision", "picture"])
def test_other_model_or_other_picture_is_encoded(benchmark: Path, tmp_path: Path, change: str) -> None:
    run(RecordingEncoder(text_vector), benchmark, tmp_path / "cache")
    if change == "picture":
        Image.new("RGB", (8, 8), (9, 0, 0)).save(benchmark.parent / "p.png")
    model = RecordingEncoder(text_vector)
    run(model, benchmark, tmp_path / "cache", model_revision="v2" if change == "revision" else "v1")
    assert len(model.seen) == (44 if change == "revision" else 1)


class Dying(RecordingEncoder):
    """Encodes a number of inputs, then the process is ended from outside."""

    def __init__(self, lives: int) -> None:
        super().__init__(text_vector)
        self.lives = lives

    def encode(self, inputs: list[Any], **options: Any) -> np.ndarray:
        if len(self.seen) + len(inputs) > self.lives:
            raise KeyboardInterrupt
        return super().encode(inputs, **options)


def test_stopped_run_goes_on(benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BATCHES_PER_CHUNK", 2)
    whole = run(RecordingEncoder(text_vector), benchmark, None)
    with pytest.raises(KeyboardInterrupt):
        run(dying := Dying(25), benchmark, tmp_path / "cache")
    again = RecordingEncoder(text_vector)
    assert run(again, benchmark, tmp_path / "cache") == whole
    assert len(dying.seen) == 24 and len(again.seen) == 20
    assert not set(map(repr, dying.seen)) & set(map(repr, again.seen))


def test_pieces_are_written_while_it_runs(benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed writes nothing at its end."""
    monkeypatch.setattr(vectors, "BATCHES_PER_CHUNK", 2)
    monkeypatch.setattr(vectors, "PIECE_VECTORS", 10)
    counts: list[int] = []

    class Looking(RecordingEncoder):
        def encode(self, inputs: list[Any], **options: Any) -> np.ndarray:
            counts.append(len(list((tmp_path / "cache").glob("*.safetensors"))))
            return super().encode(inputs, **options)

    run(Looking(text_vector), benchmark, tmp_path / "cache")
    assert [counts[call] for call in (0, 4, 5, 10, 21)] == [0, 0, 1, 2, 4]


def test_large_table_lies_in_a_file(benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(RecordingEncoder(text_vector), benchmark, None)
    monkeypatch.setattr(vectors, "MAPPED_BYTES", 64)
    kinds: list[type] = []
    monkeypatch.setattr("llave_hf.evaluation.evaluate.normalise", recorded(kinds))
    assert run(RecordingEncoder(text_vector), benchmark, tmp_path / "cache") == expected
    assert kinds == [np.memmap]
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".safetensors"}


def recorded(kinds: list[type]) -> Any:
    from llave_hf.evaluation.retrieval.retrieval import normalise

    def record(embeddings: np.ndarray) -> np.ndarray:
        kinds.append(type(embeddings))
        return normalise(embeddings)

    return record


def test_encoder_without_weights_needs_a_name_for_them(benchmark: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give model_revision"):
        run(RecordingEncoder(text_vector), benchmark, tmp_path / "cache", model_revision=None)


def test_pieces_say_which_model_made_them(benchmark: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    run(RecordingEncoder(text_vector), benchmark, tmp_path / "cache")
    (piece,) = (tmp_path / "cache").iterdir()
    with safe_open(piece, framework="numpy") as tensors:
        revision, dtype, prompt, versions = json.loads(tensors.metadata()["identity"])
    assert (revision, dtype, prompt) == ("v1", None, None) and versions["transformers"]


@pytest.fixture(autouse=True)
def one_piece_a_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(vectors, "PIECE_SECONDS", 1e9)
    yield
