"""Cards: what they claim is there, their snippets run, and nobody's text is lost."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import picture, tiny_model
from huggingface_hub import ModelCard, parse_eval_result_entries

from llave_hf.errors import UserError
from llave_hf.hub.card.model_card import MARKER, write_model_card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as training leaves it."""
    root = tmp_path / "tiny"
    model, processor = tiny_model()
    model.save_pretrained(root)
    processor.save_pretrained(root)
    recipe = {
        "from_scratch": {},
        "train_data": ["org/pairs", "/data/mine"],
        "temperature": 0.05,
        "learning_rate": 1e-3,
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (root / "training_args.json").write_text(
        json.dumps({"negatives_per_query": 127, "per_device_train_batch_size": 64, "bf16": True})
    )
    log = [{"step": step, "loss": 3 - step / 10, "learning_rate": 1e-3} for step in range(1, 6)]
    (root / "trainer_state.json").write_text(json.dumps({"global_step": 5, "epoch": 0.5, "log_history": log}))
    task = {
        "precision_at_1": 0.1,
        "recall_at_5": 0.25,
        "metric": "recall_at_5",
        "ci95": [0.2, 0.3],
        "n": 40,
        "candidates": 10,
        "chance": 0.1,
    }
    tasks = {"Retrieval": {**task, "meta_task": "retrieval", "distribution": "in"}}
    results = {"benchmark": "bench", "revision": "abc", "tasks": tasks, "means": {"overall": 0.25}}
    (root / "eval").mkdir()
    (root / "eval" / "results.json").write_text(json.dumps(results))
    picture().save(root / "eval" / "results.png")
    return root


def test_the_card_says_what_was_measured(folder: Path) -> None:
    text = write_model_card(folder).read_text()
    assert "| Retrieval | retrieval | in | recall_at_5 | 40 | 25.0 | 20.0 to 30.0 | 10.0 |" in text
    assert "| negatives per query | 127 |" in text
    assert "| pairs a device and step | 64 |" in text
    assert "| precision | bfloat16 |" in text
    assert "| data | org/pairs, `mine` |" in text
    assert "trained from random weights" in text
    assert (folder / "assets/training.png").stat().st_size > 5000
    assert (folder / "assets/results.png").exists()
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (folder / link).exists(), link


def test_the_card_names_the_form_of_the_loss(folder: Path) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    said = {"hardness_reference": "positive", "margin_strategy": "relative", "contrastive_weight": 0.5}
    said |= {"distill_weight": 2.0, "distill_source": "teacher", "teacher_temperature": 0.1, "focal_margin": 0.3}
    plain = write_model_card(folder).read_text()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | said))
    text = write_model_card(folder).read_text()
    rows = ["hardness measured from | positive", "margin of Focal-InfoNCE | 0.3", "weight of graded labels | 2.0"]
    rows += ["margins against false negatives | relative", "weight of the contrastive loss | 0.5"]
    rows += ["graded by | teacher", "temperature of the grades | 0.1"]
    for row in rows:
        assert f"| {row} |" in text and f"| {row.partition(' |')[0]} |" not in plain


def test_the_hub_understands_its_front_matter(folder: Path) -> None:
    data = ModelCard.load(write_model_card(folder)).data
    assert data.library_name == "sentence-transformers"
    assert data.datasets == ["org/pairs"]
    assert data.eval_results is not None
    assert [(r.dataset_config, r.metric_value, r.dataset_revision) for r in data.eval_results] == [
        ("Retrieval", 0.25, "abc")
    ]


def test_what_somebody_chose_stays(folder: Path) -> None:
    write_model_card(folder, chosen={"license": "mit", "language": ["en", "de"], "base_model": None})
    data = ModelCard.load(write_model_card(folder, chosen={"license": "apache-2.0"})).data
    assert (data.license, data.language, data.base_model) == ("apache-2.0", ["en", "de"], None)


def test_a_bundled_benchmarks_results_are_the_hubs_too(folder: Path) -> None:
    assert not list(write_model_card(folder).parent.glob(".eval_results/*"))  # "bench" is nobody's data set
    file = folder / "eval" / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "benchmark": "mmeb", "revision": "0123456789" * 4}))
    data = ModelCard.load(write_model_card(folder)).data
    assert data.eval_results is not None and data.eval_results[0].dataset_type == "TIGER-Lab/MMEB-eval"
    found = parse_eval_result_entries(yaml.safe_load((folder / ".eval_results" / "mmeb.yaml").read_text()))
    assert [(e.dataset_id, e.task_id, e.value, e.dataset_revision) for e in found] == [
        ("TIGER-Lab/MMEB-eval", "Retrieval", 0.25, "0123456789" * 4)
    ]


def test_the_hub_is_told_what_codecarbon_measured(folder: Path) -> None:
    header = "duration,emissions,energy_consumed,country_name,cpu_model,gpu_model"
    (folder / "emissions.csv").write_text(f"{header}\n10,1,1,France,CPU,\n7200,0.5,2.5,France,CPU,2 x H200\n")
    data = ModelCard.load(write_model_card(folder)).data
    assert data.co2_eq_emissions == {
        "emissions": 500.0,
        "source": "codecarbon: 2.5 kWh, 2.00 hours",
        "training_type": "pre-training",
        "geographical_location": "France",
        "hardware_used": "2 x H200",
    }


def test_front_matter_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "README.md").write_text(f"---\nlicense: [\n---\n{MARKER}")
    with pytest.raises(UserError, match=r"front matter of .*README\.md cannot be read"):
        write_model_card(folder)


def test_what_is_missing_is_left_out(folder: Path) -> None:
    for name in ("recipe.yaml", "trainer_state.json", "training_args.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "eval")
    text = write_model_card(folder).read_text()
    assert "## Training" not in text
    assert "## Results" not in text
    assert "model-index" not in text
    assert "| None" not in text


def test_writing_twice_changes_nothing(folder: Path) -> None:
    first = write_model_card(folder).read_bytes()
    plot = (folder / "assets/training.png").read_bytes()
    assert write_model_card(folder).read_bytes() == first
    assert (folder / "assets/training.png").read_bytes() == plot


def test_a_card_that_somebody_wrote_is_kept(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    with pytest.raises(UserError, match="--force"):
        write_model_card(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert MARKER in write_model_card(folder, force=True).read_text()
    with pytest.raises(UserError, match=r"no config\.json"):
        write_model_card(folder / "eval")


@pytest.mark.parametrize("number", [0, 1], ids=["sentence-transformers", "transformers"])
def test_the_snippets_run(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    picture().save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", write_model_card(folder).read_text(), re.DOTALL)
    assert len(snippets) == 2
    names: dict[str, object] = {}
    exec(compile(snippets[number], "card", "exec"), names)
    assert tuple(names["embeddings"].shape) == (2, 24)  # type: ignore[attr-defined]
