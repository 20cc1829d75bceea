from __future__ import annotations

from importlib.resources import files
from statistics import fmean

import pytest
import yaml

from llave_hf.evaluation import load_benchmark
from llave_hf.evaluation.report.published_numbers import PublishedNumbers, published_numbers


@pytest.mark.parametrize("model", ["LLaVE-7B", "VLM2Vec-OV-7B", "MMRet-7B"])
@pytest.mark.parametrize("group", ["classification", "vqa", "retrieval", "grounding", "in", "out", "overall"])
def test_published_means_are_those_of_the_published_subsets(model: str, group: str) -> None:
    numbers = published_numbers("mmeb")
    tasks = [task for task in load_benchmark("mmeb").tasks if group in (task.meta_task, task.distribution, "overall")]
    assert len(tasks) == numbers.counts[group]
    column = numbers.columns.index(model)
    mean = fmean(numbers.tasks[task.name][column] for task in tasks)
    assert mean == pytest.approx(numbers.means[model][group], abs=0.1)


def test_a_mean_over_other_subsets_is_not_shown() -> None:
    numbers = published_numbers("mmeb")
    assert numbers.mean("LLaVE-7B", "overall", 36) == 70.3
    assert numbers.mean("LLaVE-7B", "overall", 35) is None
    assert numbers.mean("Qwen3-VL-Embedding-8B", "vqa", 10) is None


def test_other_benchmarks_have_none() -> None:
    assert published_numbers("mine") == PublishedNumbers()
    assert published_numbers("mine").of_subset("MSCOCO") == []


def test_a_benchmark_has_the_numbers_of_what_it_extends() -> None:
    assert published_numbers("mmeb-instruct") == published_numbers("mmeb")
    numbers = published_numbers("mmeb-v2")
    assert numbers.mean("LLaVE-7B", "image", 36) == 70.3
    assert numbers.mean("LLaVE-7B", "overall", 36) is None and numbers.mean("LLaVE-7B", "overall", 78) is None
    assert numbers.mean("LLaVE-7B", "retrieval", 12) == 70.9
    assert numbers.mean("Qwen3-VL-Embedding-8B", "image", 36) == 80.1
    assert numbers.mean("Qwen3-VL-Embedding-8B", "overall", 78) == 77.8


@pytest.mark.parametrize("model", ["Qwen3-VL-Embedding-2B", "Qwen3-VL-Embedding-8B"])
def test_the_mean_of_all_is_that_of_its_parts(model: str) -> None:
    numbers = published_numbers("mmeb-v2")
    parts = [(numbers.counts[part], numbers.means[model][part]) for part in ("image", "video", "visdoc")]
    assert sum(count for count, _ in parts) == numbers.counts["overall"]
    mean = sum(count * score for count, score in parts) / numbers.counts["overall"]
    assert mean == pytest.approx(numbers.means[model]["overall"], abs=0.1)


def test_cards_of_the_published_models_say_the_same() -> None:
    cards = yaml.safe_load(files("llave_hf.hub").joinpath("published.yaml").read_text(encoding="utf-8"))
    numbers = published_numbers("mmeb")
    for name, card in cards["models"].items():
        assert card["scores"] == list(numbers.means[name].values()), name
    assert cards["models"]["LLaVE-7B"]["baseline"] == list(numbers.means["VLM2Vec-OV-7B"].values())
