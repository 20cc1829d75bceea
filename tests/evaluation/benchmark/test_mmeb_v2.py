"""The bundled mmeb-v2: what it holds, that it scores chance where it should, its means and the leaderboard's file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from evaluation_helpers import constant_encoder
from huggingface_hub import constants
from mmeb_v2_data import FRAMES, instruct_row, write_beir, write_frames, write_rows
from PIL import Image

from llave_hf.evaluation import evaluate_benchmark, load_benchmark

# FACTS of the published evaluation: 36 pictures, 18 videos, 24 documents
MODALITIES = {"image": 36, "video": 18, "visdoc": 24}
META_TASKS = {
    "classification": 10,
    "vqa": 10,
    "retrieval": 12,
    "grounding": 4,
    "video-classification": 5,
    "video-qa": 5,
    "video-retrieval": 5,
    "moment-retrieval": 3,
    "vidore-v1": 10,
    "vidore-v2": 4,
    "visrag": 6,
    "visdoc-ood": 4,
}
GLOBAL_VIDEOS = {"HMDB51", "UCF101", "K700", "Breakfast", "MSR-VTT", "MSVD", "DiDeMo", "VATEX", "YouCook2"}


def test_all_78_subsets_are_there() -> None:
    benchmark = load_benchmark("mmeb-v2")
    assert len(benchmark.tasks) == 78 and benchmark.num_frames == 8 and benchmark.leaderboard
    assert Counter(task.modality for task in benchmark.tasks) == MODALITIES
    assert Counter(task.meta_task for task in benchmark.tasks) == META_TASKS
    for task in benchmark.tasks:
        document = task.modality == "visdoc"
        assert task.metric == ("ndcg_at_5" if document else "precision_at_1"), task.name
        assert task.pool == ("global" if document or task.name in GLOBAL_VIDEOS else "local"), task.name
        assert (task.distribution == "none") == (task.modality != "image"), task.name
        assert (task.source is None) == (task.modality == "image"), task.name


def test_pictures_are_those_of_the_first_version() -> None:
    first = load_benchmark("mmeb").tasks
    for name in ("mmeb-v2", "mmeb-instruct"):
        pictures = [task for task in load_benchmark(name).tasks if task.modality in (None, "image")]
        described = [(task.name, task.meta_task, task.distribution, task.pool) for task in pictures]
        assert described == [(task.name, task.meta_task, task.distribution, task.pool) for task in first]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A subset of every kind."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "image-tasks" / "Set").mkdir(parents=True)
    for name in ("q", "a", "b"):
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(tmp_path / "image-tasks" / "Set" / f"{name}.png")
    write_rows(tmp_path, "ImageNet-1K", [instruct_row(tgt_text=["cat", "dog", "bird", "cow"])])
    pictures = {"tgt_inst": "See", "tgt_text": ["", ""], "tgt_img_path": ["Set/a.png", "Set/b.png"]}
    write_rows(tmp_path, "CIRR", [instruct_row(**pictures)])
    write_rows(tmp_path / "Breakfast", "", [{"video_id": "v0", "pos_text": "tea"}])
    write_rows(tmp_path / "ActivityNetQA", "", [{"video_name": "v0", "question": "is it", "answer": "yes"}])
    write_rows(tmp_path / "VATEX", "", [{"videoID": f"v{n}", "enCap": [f"caption {n}"]} for n in range(5)])
    write_rows(tmp_path / "Charades-STA", "", [{"query": "he sits", "video_path": "v0.mp4"}])
    clips = {"positive_frames": [{"output_path": "c0.mp4"}], "negative_frames": [{"output_path": "c1.mp4"}] * 2}
    write_rows(tmp_path / "MomentSeeker", "", [{"query": "he sits", "input_frames": "", **clips}])
    write_beir(tmp_path / "VisRAG_ChartQA", split="train")
    folders = ["video_cls/Breakfast/v0", "video_qa/ActivityNetQA/v_v0", *(f"video_ret/VATEX/v{n}" for n in range(5))]
    folders += [f"video_mret/Charades_STA/v0/{clip}" for clip in ("query", "positive", "negative_0", "negative_1")]
    folders += [f"video_mret/MomentSeeker/video_frames/c{n}" for n in range(2)]
    for number, folder in enumerate(folders):
        write_frames(tmp_path, folder, green=number)
    assert (tmp_path / FRAMES).is_dir()
    return tmp_path


CHANCE = {
    "ImageNet-1K": 1 / 4,
    "CIRR": 1 / 2,
    "Breakfast": 1 / 10,
    "ActivityNetQA": 1 / 2,
    "VATEX": 1 / 5,
    "Charades-STA": 1 / 3,
    "MomentSeeker": 1 / 2,
}


def test_constant_encoder_is_chance_on_every_kind(data: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark("mmeb-v2", data=data)
    names = [*CHANCE, "VisRAG_ChartQA"]
    results = evaluate_benchmark(
        constant_encoder(),
        benchmark,
        subsets=names,
        show_progress=False,
        output_dir=tmp_path / "out",
        model_name="flat",
    ).to_dict()
    for name, chance in CHANCE.items():
        assert results["tasks"][name]["precision_at_1"] == pytest.approx(chance, abs=1e-12), name
    for name in names:
        task = results["tasks"][name]
        assert task[task["metric"]] == pytest.approx(task["chance"], abs=1e-12), name
    means = results["means"]
    document = results["tasks"]["VisRAG_ChartQA"]["ndcg_at_5"]
    assert 0 < document < 1
    assert means["image"] == pytest.approx(3 / 8)
    assert means["video"] == pytest.approx((1 / 10 + 1 / 2 + 1 / 5 + 1 / 3 + 1 / 2) / 5)
    assert means["visdoc"] == document
    assert means["overall"] == pytest.approx((sum(CHANCE.values()) + document) / 8)
    assert means["in"] == means["image"] and "out" not in means
    written = (tmp_path / "out" / "results.md").read_text()
    assert "| image | 2 | 37.5 |" in written and "| video | 5 |" in written and "| visdoc | 1 |" in written


def test_leaderboard_file_has_the_published_form(data: Path, tmp_path: Path) -> None:
    names = ["CIRR", "VATEX", "VisRAG_ChartQA"]
    results = evaluate_benchmark(
        constant_encoder(5),
        load_benchmark("mmeb-v2", data=data),
        subsets=names,
        show_progress=False,
        output_dir=tmp_path / "out",
        model_name="flat",
    ).to_dict()
    written = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert set(written) == {"metadata", "metrics"}
    assert set(written["metadata"]) == {
        *("model_name", "model_backbone", "model_size", "embedding_dimension", "max_length_tokens"),
        *("model_release_date", "data_source", "url", "report_generated_date"),
    }
    assert (written["metadata"]["model_name"], written["metadata"]["embedding_dimension"]) == ("flat", 5)
    scores = {name: subset for group in written["metrics"].values() for name, subset in group.items()}
    assert {group: list(subsets) for group, subsets in written["metrics"].items()} == {
        "image": ["CIRR"],
        "video": ["VATEX"],
        "visdoc": ["VisRAG_ChartQA"],
    }
    assert scores["VATEX"]["hit@1"] == pytest.approx(1 / 5) and scores["VATEX"]["recall@5"] == 1.0
    assert scores["VATEX"]["precision@5"] == pytest.approx(1 / 5)
    assert scores["VisRAG_ChartQA"]["ndcg_linear@5"] == results["tasks"]["VisRAG_ChartQA"]["ndcg_at_5"]
    assert scores["VisRAG_ChartQA"]["precision@5"] == pytest.approx(2 / 8)
    assert scores["CIRR"]["num_data"] == scores["CIRR"]["num_pred"] == 1


def test_other_benchmarks_have_no_leaderboard_file(data: Path, tmp_path: Path) -> None:
    write_rows(tmp_path, "OK-VQA", [instruct_row(qry_img_path="image-tasks/Set/q.png")])
    evaluate_benchmark(
        constant_encoder(),
        load_benchmark("mmeb-instruct", data=data),
        subsets=["OK-VQA"],
        show_progress=False,
        output_dir=tmp_path / "out",
    )
    assert (tmp_path / "out" / "results.json").is_file() and not (tmp_path / "out" / "leaderboard.json").exists()
