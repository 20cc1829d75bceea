"""A benchmark's subsets as tasks of mteb score what `evaluate_benchmark` scores."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_helpers import RecordingEncoder, constant_encoder
from helpers import picture, tiny_model

from llave_hf.encoding.sentence_transformer import LlaveSentenceTransformer
from llave_hf.errors import UserError
from llave_hf.evaluation import evaluate_benchmark

mteb = pytest.importorskip("mteb")

from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper  # noqa: E402

from llave_hf.evaluation.mteb import LlaveMtebModel, mmeb_tasks  # noqa: E402
from llave_hf.evaluation.mteb.foreign import ForeignModel  # noqa: E402


def content_encoder() -> RecordingEncoder:
    """Random vectors that depend on the content alone; few different numbers, so that some are tied."""

    def vector(entry: Any) -> np.ndarray:
        if not isinstance(entry, str):
            media = entry.get("image") or entry["video"][0]
            entry = f"{entry.get('text')} {media.getpixel((0, 0))}"
        seed = int.from_bytes(hashlib.sha256(entry.encode()).digest()[:4], "big")
        return np.append(np.random.default_rng(seed).integers(-1, 2, 2), 0.5)

    return RecordingEncoder(vector)


def run(model: Any, tasks: Any, **options: Any) -> dict[str, Any]:
    found = mteb.evaluate(model, tasks, cache=None, show_progress_bar=False, co2_tracker=False, **options)
    return {result.task_name: result for result in found.task_results}


def test_the_scores_are_those_of_our_evaluation(mixed_benchmark: Path, tmp_path: Path) -> None:
    expected = evaluate_benchmark(content_encoder(), mixed_benchmark, show_progress=False).to_dict()["tasks"]
    found = run(LlaveMtebModel(content_encoder()), mmeb_tasks(mixed_benchmark), prediction_folder=tmp_path / "each")
    assert list(found) == ["small-Classes", "small-Questions", "small-Pictures", "small-Clips"]
    for subset, entry in expected.items():
        result = found[f"small-{subset}"]
        scores = result.scores["test"][0]
        for name in ("precision_at_1", "chance", "n", "candidates"):
            assert scores[name] == pytest.approx(entry[name], abs=1e-6), (subset, name)
        assert scores["main_score"] == scores["precision_at_1"]
        assert [scores["ci95_low"], scores["ci95_high"]] == pytest.approx(entry["ci95"], abs=1e-6)
        assert [scores["ties_lost"], scores["ties_won"]] == pytest.approx(entry["bounds"], abs=1e-6)
        assert result.dataset_revision == entry["revision"]
        each = json.loads((tmp_path / "each" / f"small-{subset}_predictions.json").read_text())["default"]["test"]
        assert np.mean(each) == pytest.approx(entry["precision_at_1"], abs=1e-6)
    tied = expected["Questions"]["bounds"]
    assert tied[0] < expected["Questions"]["precision_at_1"] < tied[1]  # the test has ties to break


def test_a_constant_encoder_scores_chance(mixed_benchmark: Path) -> None:
    for result in run(LlaveMtebModel(constant_encoder()), mmeb_tasks(mixed_benchmark)).values():
        scores = result.scores["test"][0]
        assert scores["main_score"] == scores["chance"] < 0.5


def test_mtebs_other_models_get_the_same_scores(mixed_benchmark: Path, tmp_path: Path) -> None:
    for part in tiny_model():
        part.save_pretrained(tmp_path / "model")
    opened = LlaveSentenceTransformer(str(tmp_path / "model"), device="cpu")
    wrapped = SentenceTransformerEncoderWrapper(opened)
    wrapped.mteb_model_meta = wrapped.mteb_model_meta.model_copy(update={"modalities": ["text", "image", "video"]})
    subsets = ["Classes", "Questions", "Pictures"]
    expected = evaluate_benchmark(opened, mixed_benchmark, subsets=subsets, show_progress=False).to_dict()["tasks"]
    tasks = mmeb_tasks(mixed_benchmark, subsets=subsets)
    for model in (wrapped, LlaveMtebModel(opened)):
        for name, result in run(model, tasks).items():
            score = expected[name.removeprefix("small-")]["precision_at_1"]
            assert result.scores["test"][0]["main_score"] == pytest.approx(score, abs=1e-6), name
    with pytest.raises(UserError, match="only given to a LlaveMtebModel"):
        run(wrapped, mmeb_tasks(mixed_benchmark, subsets=["Clips"]))


def test_a_mixed_list_comes_back_in_its_order() -> None:
    class Lengths:
        def encode(self, loader: Any, **_: Any) -> np.ndarray:
            rows = [row for batch in loader for row in zip(*batch.values(), strict=True)]
            return np.array([[len(row), len(str(row[-1])) if isinstance(row[-1], str) else 0] for row in rows])

    shown = picture()
    inputs = ["four", {"image": shown}, {"image": shown, "text": "abc"}, "a", {"image": shown}, "word 2"]
    foreign = ForeignModel(Lengths(), mmeb_tasks()[0].metadata, "test", "default", {})
    made = foreign.encode(inputs, batch_size=2, show_progress_bar=False)
    assert made.tolist() == [[1, 4], [1, 0], [2, 3], [1, 1], [1, 0], [1, 6]]


def test_subsets_share_vectors_by_a_cache(mixed_benchmark: Path, tmp_path: Path) -> None:
    encoder = content_encoder()
    tasks = mmeb_tasks(mixed_benchmark, subsets=["Classes", "Questions"], cache=tmp_path / "vectors")
    run(LlaveMtebModel(encoder, "1"), tasks)
    texts = [entry for entry in encoder.seen if isinstance(entry, str)]
    assert len(texts) == len(set(texts)) > 40  # both have "word 0" and so on among the candidates
    with pytest.raises(UserError, match="A cache needs to know which model made a vector"):
        run(LlaveMtebModel(encoder), tasks)


def test_mmebs_metadata_is_whole() -> None:
    tasks = mmeb_tasks(subsets=None)
    assert len(tasks) == 36
    for task in tasks:
        assert task.metadata.is_filled(), task
        assert task.metadata.dataset["path"] == "TIGER-Lab/MMEB-eval"
        assert task.metadata.main_score == "precision_at_1"
        task.metadata._validate_metadata()
    kinds = {task.metadata.name: (task.metadata.type, task.metadata.category) for task in tasks}
    assert kinds["mmeb-ImageNet-1K"] == ("ZeroShotClassification", "i2t")
    assert kinds["mmeb-CIRR"] == ("Any2AnyRetrieval", "it2i")
    assert kinds["mmeb-ScienceQA"] == ("VisionCentricQA", "it2t")


def test_videos_are_told_from_pictures_in_mmeb_v2() -> None:
    tasks = {task.metadata.name.removeprefix("mmeb-v2-"): task.metadata for task in mmeb_tasks("mmeb-v2")}
    assert len(tasks) == 78
    moving = [name for name, described in tasks.items() if "video" in described.modalities]
    assert len(moving) == 18
    assert {"MSVD", "MomentSeeker", "Video-MME"} <= set(moving)
    assert (tasks["MSVD"].category, tasks["CIRR"].category) == ("t2v", "it2i")


def test_a_models_modalities_are_checked_before_anything_is_read(mixed_benchmark: Path) -> None:
    encoder = content_encoder()
    encoder.modalities = ["text"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="small-Classes"):
        run(LlaveMtebModel(encoder), mmeb_tasks(mixed_benchmark, subsets=["Classes"]))
    assert encoder.seen == []
    questions = mmeb_tasks(mixed_benchmark, subsets=["Questions"], modalities=["text"])
    assert run(LlaveMtebModel(encoder), questions)["small-Questions"].scores


def test_statistics_of_a_subset(mixed_benchmark: Path) -> None:
    (task,) = mmeb_tasks(mixed_benchmark, subsets=["Pictures"])
    found = task._calculate_descriptive_statistics_from_split("test")
    assert found == {"num_samples": 12, "num_documents": 144, "num_distinct_inputs": 24}


def test_the_documents_snippet_runs(
    mixed_benchmark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mixed_benchmark.parent
    for part in tiny_model():
        part.save_pretrained(folder / "MODEL")
    mixed_benchmark.rename(folder / "my-benchmark.yaml")
    monkeypatch.chdir(folder)
    text = (Path(__file__).parents[3] / "model_cards" / "mteb.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(import mteb\n.*?)```", text, re.DOTALL)
    exec(compile(snippet, "mteb.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()  # DeepSpeed, where it is imported first here, writes one of its own
    assert [line.split()[0] for line in lines if not line.startswith("[20")] == [
        f"small-{name}" for name in ("Classes", "Questions", "Pictures", "Clips")
    ]
    assert len(list((folder / "mteb-results").rglob("small-*.json"))) == 4
