from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_helpers import RecordingEncoder, constant_encoder, make_row, one_hot, random_encoder, write_benchmark
from helpers import picture, tiny_model

from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.model_identity import path_revision
from llave_hf.evaluation import BenchmarkError, evaluate_benchmark, load_benchmark

WORDS = ["a", "b", "c", "d", "e"]
ROWS = {
    "Right": [make_row(word, [word, *(other for other in WORDS if other != word)]) for word in WORDS],
    "Half": [make_row("a", ["a", "b"]), make_row("a", ["b", "a"])],
    "Wrong": [make_row("a", ["b", "a", "c"])],
}
OPTIONS = {
    "Right": {"meta_task": "vqa", "distribution": "in"},
    "Half": {"meta_task": "retrieval", "distribution": "in"},
    "Wrong": {"meta_task": "retrieval", "distribution": "out"},
}


def word_encoder() -> RecordingEncoder:
    return RecordingEncoder(lambda text: one_hot(text, WORDS))


def evaluate(model: Any, benchmark: Any, **options: Any) -> dict[str, Any]:
    return evaluate_benchmark(model, benchmark, show_progress=False, **options).to_dict()


@pytest.mark.parametrize("dimensions", [1, 37, 768])
def test_constant_encoder_is_chance_on_every_subset(mixed_benchmark: Path, dimensions: int) -> None:
    results = evaluate(constant_encoder(dimensions), mixed_benchmark)
    for name, task in results["tasks"].items():
        assert task["precision_at_1"] == task["chance"], name
        assert task["precision_at_1_bounds"] == [0.0, 1.0], name
    assert results["tasks"]["Classes"]["chance"] == pytest.approx(1 / 3, abs=1e-15)
    assert results["tasks"]["Pictures"]["chance"] == pytest.approx(1 / 12, abs=1e-15)
    assert results["tasks"]["Questions"]["chance"] == pytest.approx((1 / 7 + 1 / 8 + 1 / 9) / 3, abs=1e-15)


def test_results_follow_the_contract(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, ROWS, OPTIONS)
    results = evaluate(word_encoder(), path, model_name="words")
    assert (results["model"], results["benchmark"]) == ("words", "small")
    assert results["revision"].startswith("sha256:")
    assert set(results["versions"]) == {"llave_hf", "torch", "transformers", "sentence-transformers", "pillow"}
    assert list(results["tasks"]) == ["Right", "Half", "Wrong"]
    assert {name: task["precision_at_1"] for name, task in results["tasks"].items()} == {
        "Right": 1.0,
        "Half": 0.5,
        "Wrong": 0.0,
    }
    half = results["tasks"]["Half"]
    assert half | {"n": 2, "candidates": 2, "chance": 0.5, "meta_task": "retrieval", "distribution": "in"} == half
    assert half["ci95"] == [0.0, 1.0]
    assert results["means"] == {"vqa": 1.0, "retrieval": 0.25, "in": 0.75, "out": 0.0, "overall": 0.5}
    assert results["missing"] == []


def test_files_are_the_same_in_every_run(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, ROWS, OPTIONS)
    for run in ("one", "two"):
        evaluate(word_encoder(), path, output_dir=tmp_path / run)
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == ["per_query.safetensors", "report.html", "results.json", "results.md", "results.png"]
    for file in files[:4]:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert json.loads((tmp_path / "one" / "results.json").read_text())["means"]["overall"] == 0.5


def test_metric_of_a_subset_enters_the_means(tmp_path: Path) -> None:
    options = {"Wrong": {"metric": "recall_at_2"}, "Half": {"metric": "ndcg_at_2"}}
    results = evaluate(word_encoder(), write_benchmark(tmp_path, ROWS, options))
    wrong, half = results["tasks"]["Wrong"], results["tasks"]["Half"]
    # "a" is found first; "b" and "c" share a score, so "b" is second in half of the orders
    assert (wrong["precision_at_1"], wrong["recall_at_2"], wrong["chance"]) == (0.0, 0.5, pytest.approx(2 / 3))
    assert half["ndcg_at_2"] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert results["means"]["overall"] == pytest.approx((1 + half["ndcg_at_2"] + 0.5) / 3)


def test_global_pool_ranks_the_candidates_of_the_whole_subset(tmp_path: Path) -> None:
    rows = {"A": [make_row("a", ["a", "b"]), make_row("c", ["d", "e"])]}
    local = evaluate(random_encoder(), write_benchmark(tmp_path, rows))
    everywhere = evaluate(random_encoder(), write_benchmark(tmp_path, rows, {"A": {"pool": "global"}}))
    assert (local["tasks"]["A"]["candidates"], everywhere["tasks"]["A"]["candidates"]) == (2, 4)


def test_means_are_over_the_chosen_subsets_and_the_others_are_named(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, ROWS, OPTIONS)
    results = evaluate(word_encoder(), path, subsets=["Half", "Right"])
    assert results["means"] == {"vqa": 1.0, "retrieval": 0.5, "in": 0.75, "overall": 0.75}
    assert results["missing"] == ["Wrong"]


def test_repeated_answer_is_no_tie(tmp_path: Path) -> None:
    results = evaluate(word_encoder(), write_benchmark(tmp_path, {"A": [make_row("a", ["a", "b", "a", "b"])]}))
    task = results["tasks"]["A"]
    assert (task["precision_at_1"], task["candidates"], task["duplicates"], task["chance"]) == (1.0, 2, 2, 0.5)


def test_inputs_are_encoded_once_over_all_subsets(tmp_path: Path) -> None:
    model = word_encoder()
    evaluate(model, write_benchmark(tmp_path, ROWS))
    assert sorted(model.seen) == WORDS


def test_faults_of_the_data_come_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.runtime.places._check_hub", lambda *_: None)  # the id is on the Hub
    rows = {"A": [make_row("<|image_1|>", ["a", "b"], image="gone.png")]}
    with pytest.raises(BenchmarkError, match=r"gone.png"):
        evaluate("no/such-model", write_benchmark(tmp_path, rows))


def test_loaded_benchmark_is_taken_as_it_is(tmp_path: Path) -> None:
    benchmark = load_benchmark(write_benchmark(tmp_path, ROWS)).select(["Half"])
    assert list(evaluate(word_encoder(), benchmark)["tasks"]) == ["Half"]


def test_batch_size_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        evaluate(word_encoder(), write_benchmark(tmp_path, ROWS), batch_size=0)


def test_subset_names_what_is_odd_and_what_was_asked(tmp_path: Path) -> None:
    rows = [make_row("a", ["a", "b", "a"]), make_row("b", ["b", ""]), make_row("b", ["b", "c"])]
    task = evaluate(RecordingEncoder(lambda text: [1.0, len(text)]), write_benchmark(tmp_path, {"A": rows}))["tasks"][
        "A"
    ]
    assert task["findings"] == {"repeated_answer": 1, "empty_candidate": 1, "repeated_row": 1}
    assert task["revision"].startswith("sha256:") and task["inputs"].startswith("sha256:")


def test_bounds_are_of_the_subsets_metric(tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, {"A": [make_row("a", ["b", "a", "c", "d"])]}, {"A": {"metric": "ndcg_at_2"}})
    task = evaluate(word_encoder(), path)["tasks"]["A"]  # "b", "c" and "d" share the second place
    assert task["bounds"] == [0.0, pytest.approx(1 / np.log2(3))]
    assert task["ndcg_at_2"] == pytest.approx(1 / np.log2(3) / 3)


def test_results_name_the_model(tmp_path: Path) -> None:
    model, processor = tiny_model()
    path = write_benchmark(tmp_path, {"A": [make_row("a", ["a", "b"])]})
    memory = evaluate(LlaveEncoder(model, processor), path)
    assert memory["dtype"] == "float32" and memory["prompt"] == "" and memory["model_revision"].startswith("sha256:")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert evaluate(LlaveEncoder(model, processor), path)["model_revision"] == memory["model_revision"]
    folder = evaluate(tmp_path / "model", path)
    assert folder["model_revision"] == path_revision(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("A card changes no vector.")
    assert path_revision(tmp_path / "model") == folder["model_revision"]
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert evaluate(LlaveEncoder(model, processor), path)["model_revision"] != memory["model_revision"]
    unknown = evaluate(word_encoder(), path)
    assert unknown["model_revision"] is None and evaluate(word_encoder(), path, model_revision="v1")["model_revision"]


def test_input_that_the_encoder_refuses_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(9):
        picture(60, 60, seed=number).save(tmp_path / "clip" / f"{number}.png")
    rows = [make_row("a", ["a", "b"]), make_row("<|image_1|>\nWhich?", ["a", "b"], image="clip")]
    path = write_benchmark(tmp_path, {"A": rows})
    model, processor = tiny_model(processor={"max_length": 30})
    with pytest.raises(BenchmarkError, match=r"^A, row 1: .* over max_length 30"):
        evaluate(LlaveEncoder(model, processor), path)


def test_error_that_no_input_gives_by_itself_stays_as_it_is(tmp_path: Path) -> None:
    class Refusing(RecordingEncoder):
        def encode(self, inputs: list[Any], **options: Any) -> np.ndarray:
            if len(inputs) > 1:
                raise ValueError("too many at once")
            return super().encode(inputs, **options)

    with pytest.raises(ValueError, match=r"^too many at once$"):
        evaluate(Refusing(lambda text: one_hot(text, WORDS)), write_benchmark(tmp_path, ROWS))
