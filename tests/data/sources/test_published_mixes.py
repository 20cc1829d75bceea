"""The shipped recipes' train_data open, without the Hub, on one row of each source in its published schema."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from helpers import picture
from published import PUBLISHED

from llave_hf.data.pairs import load_pairs
from llave_hf.data.rows.tasks import PairDataset
from llave_hf.data.samples import Pair
from llave_hf.doctor import examine
from llave_hf.training.recipe.recipe import load_recipe

ON_CPU = ["--use_cpu", "--tf32", "null"]
RECIPES = Path(__file__).parents[3] / "recipes"
MMEB_SPLITS = ("original", "diverse_instruction", "train")
AS_IN = {"openbmb/VisRAG-Ret-Train-In-domain-data": "openbmb/VisRAG-Ret-Train-Synthetic-data"}  # one schema


def hub_rows(path: str, subset: str) -> dict[str, datasets.Dataset]:
    """One row of a Hub data set, as `load_dataset` gives each split of it."""
    of = PUBLISHED[AS_IN.get(path, path)]
    made = datasets.Dataset.from_list(of.rows[:1], features=of.features)
    if subset == "CIRR":  # some subsets of MMEB have no columns of negatives
        made = made.remove_columns(["neg_text", "neg_image_path"])
    return dict.fromkeys(MMEB_SPLITS if path == "TIGER-Lab/MMEB-train" else ("train",), made)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the recipes' commands bring, and a Hub that is made of [`hub_rows`]."""
    monkeypatch.chdir(tmp_path)
    for root in ("MMEB-train", "mmE5"):
        (tmp_path / root / "images").mkdir(parents=True)
        for number in range(2):
            picture().save(tmp_path / root / "images" / f"{number}.jpg")
    clip = tmp_path / "LLaVA-Hound" / "train_300k" / "v_1"
    clip.mkdir(parents=True)
    for number in range(3):
        picture(seed=number).save(clip / f"c01_000{number}.jpeg")
    lines = tmp_path / "LLaVA-Hound" / "video_instruction" / "train" / "sft"
    lines.mkdir(parents=True)
    turns = [{"from": "human", "value": "<video>\nWrite of it."}, {"from": "gpt", "value": "A dog runs."}]
    for name in ("video_caption_300k", "video_qa_240k"):
        (lines / f"{name}.jsonl").write_text(json.dumps({"id": "1", "video": "v_1", "conversations": turns}) + "\n")

    subsets = {"vidore/colpali_train_set": ["default"], "openbmb/VisRAG-Ret-Train-In-domain-data": ["default"]}

    def load(path: str, name: str, split: str, revision: str | None) -> datasets.Dataset:
        made = hub_rows(path, name)[split]
        folder = tmp_path / "prepared" / path / name / split
        made.save_to_disk(folder)  # rows of the Hub lie in Arrow files
        return datasets.load_from_disk(folder)

    recipes = [load_recipe(RECIPES / f"{name}.yaml", ON_CPU) for name in ("vlm2vec-v2", "mme5")]
    entries = [entry for recipe in recipes for entry in recipe.data.train_data if "subsets" in entry]
    for entry in entries:
        subsets.setdefault(entry["path"], []).extend(entry["subsets"])
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path, revision: subsets[path])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name, revision: [*hub_rows(path, name)])
    monkeypatch.setattr(datasets, "load_dataset", load)
    return tmp_path


def opened(recipe: str) -> tuple[PairDataset, dict[str, Pair]]:
    data = load_recipe(RECIPES / f"{recipe}.yaml", ON_CPU).data
    pairs = load_pairs(data.train_data, media_root=data.media_root, split=data.train_split)
    return pairs, {source.name: pairs[source.start] for source in pairs.sources}


def test_vlm2vec_v2(hub: Path) -> None:
    pairs, by_task = opened("vlm2vec-v2")
    assert len(pairs.sources) == 25 and len(pairs) == 25
    weights = {source.name: source.weight for source in pairs.sources}
    assert sum(weights.values()) == 10 * 1 + 10 * 0.5 + 10 + 12 + 3 * 5
    assert weights["colpali_train_set"] == 10 and weights["visrag-indomain"] == 12 and weights["CIRR"] == 0.5
    assert by_task["DocVQA"].query.images == ("images/0.jpg",) and by_task["DocVQA"].negatives
    assert not by_task["CIRR"].negatives
    page = by_task["colpali_train_set"]
    assert page.query.text == "What does page 0 say?" and len(page.query.images) == 1
    assert page.positive.text == "['answer 0']" and not page.positive.images
    slide = by_task["visrag-indomain"]
    assert slide.query.text == "Find a document image that matches the given query: What does slide 0 say?"
    assert len(slide.positive.images) == 1 and not slide.query.images
    caption, clip = by_task["video_caption_300k"], by_task["video_caption_300k-video"]
    assert (caption.query.text, caption.query.video, caption.positive.text) == ("\nWrite of it.", "v_1", "A dog runs.")
    assert clip.query.text.endswith("visual content: A dog runs.") and clip.positive.video == "v_1"
    assert by_task["video_qa_240k"].query.text == "\nAnswer a question about the video: Write of it."


def test_mme5(hub: Path) -> None:
    pairs, by_task = opened("mme5")
    assert len(pairs.sources) == 27
    assert [one.text for one in by_task["TAT-DQA"].negatives] == ["It's thing 1", "It's thing 2"]
    assert [(one.text, one.images) for one in by_task["VQA"].negatives] == [("\nThing 1", ("images/1.jpg",))]


@pytest.mark.parametrize("recipe", ["vlm2vec-v2", "mme5"])
def test_doctor_says_what_to_download(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = [finding for finding in examine(str(RECIPES / f"{recipe}.yaml"), ON_CPU) if finding.part == "data"]
    assert all(finding.level == "PROBLEM" for finding in told)
    text = "\n".join(finding.text for finding in told)
    wanted = {
        "vlm2vec-v2": (
            "    hf download TIGER-Lab/MMEB-train --repo-type dataset --local-dir MMEB-train\n",
            "    (cd MMEB-train && python unzip_file.py)",
            "    hf download vidore/colpali_train_set --repo-type dataset",
            "    hf download openbmb/VisRAG-Ret-Train-In-domain-data --repo-type dataset",
            "ShareGPTVideo/train_video_and_instruction: there is no media_root LLaVA-Hound/train_300k",
            ", there is no LLaVA-Hound/video_instruction/train/sft/video_qa_240k.jsonl; bring it by",
        ),
        "mme5": (
            "intfloat/mmE5-MMEB-hardneg: there is no media_root mmE5; bring it by",
            "    tar -xzf mmE5/synthetic/LAION_Synthetic.tar.gz -C mmE5/images",
        ),
    }
    assert all(line in text for line in wanted[recipe]), text
    assert len(told) == {"vlm2vec-v2": 4, "mme5": 2}[recipe]
