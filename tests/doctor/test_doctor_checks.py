"""Each check of `llave doctor` by itself, of a recipe whose data nobody opens; and what becomes of one that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_helpers import make_row, write_benchmark
from helpers import write_recipe, write_training_data

from llave_hf import LlaveModel
from llave_hf.doctor import examination
from llave_hf.doctor.data_checks import open_data
from llave_hf.doctor.findings import NOTE, OK, PROBLEM, Finding, Patient
from llave_hf.doctor.grade_checks import check_grades
from llave_hf.doctor.model_checks import check_disk, check_model
from llave_hf.doctor.model_sizes import config_of, opened_bytes, parameter_bytes, part_sizes, skeleton
from llave_hf.doctor.settings_checks import check_settings
from llave_hf.doctor.start_checks import check_batches, check_loss
from llave_hf.doctor.tuned_sizes import tuned_sizes
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.tuning.parts import count_parameters, freeze_parts


def patient_of(root: Path, **changes: Any) -> Patient:
    """Without data: neither rows nor pictures are there."""
    return Patient(load_recipe(write_recipe(root, **changes)), None, fast=True, tflops=100.0, devices=1)


def told(findings: Iterator[Finding], level: str) -> str:
    return "\n".join(finding.text for finding in findings if finding.level == level)


@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        ({"gradient_accumulation_steps": 2}, NOTE, "gradient_accumulation_steps 2 adds no negatives"),
        ({"per_device_train_batch_size": 4}, NOTE, "4 pairs a device"),
        ({"hardness_mode": "all_negatives"}, PROBLEM, "use_negatives is off"),
        ({"focal_margin": 0.3, "hardness_strength": 0}, NOTE, "start from a trained model"),
        ({"batch_groups": True}, NOTE, "batch_groups from random weights costs points"),
        ({"gather_across_devices": False}, NOTE, "other devices' documents are no negatives"),
    ],
)
def test_settings_are_checked_without_data_or_model(
    tmp_path: Path, changes: dict[str, Any], level: str, message: str
) -> None:
    sound = {"per_device_train_batch_size": 8}
    assert not told(check_settings(patient_of(tmp_path, **sound).recipe), level)
    assert message in told(check_settings(patient_of(tmp_path, **sound | changes).recipe), level)


def test_grades_that_are_labels_or_of_the_other_sign_are_noted(tmp_path: Path) -> None:
    rows = [
        {"qry": f"question {n}", "pos_text": f"answer {n}", "neg_text": ["no", "perhaps"], "pos_score": 0.9}
        | {"neg_score": [0.1 if n % 4 else 0.95, 0.7]}
        for n in range(12)
    ]
    path = tmp_path / "graded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def findings(**changes: Any) -> list[Finding]:
        patient = patient_of(
            tmp_path,
            **{
                "distill_weight": 1.0,
                "train_data": str(path),
                "use_negatives": True,
                "eval_benchmark": None,
                **changes,
            },
        )
        return list(check_grades(replace(patient, dataset=open_data(patient.recipe)[0])))

    sharp = findings(teacher_temperature=0.01)
    assert [finding.level for finding in sharp] == [NOTE]
    assert "put over 99% on one candidate in 100% of rows" in sharp[0].text
    assert [finding.level for finding in findings(teacher_temperature=0.3)] == [OK]
    assert findings(distill_weight=0.0) == []
    for row in rows:
        row["pos_score"] = 0.2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    levels = [(finding.level, "not how hard it is" in finding.text) for finding in findings(teacher_temperature=0.3)]
    assert levels == [(OK, False), (NOTE, True)]


def test_a_folder_with_a_model_is_not_written_over(tmp_path: Path) -> None:
    recipe = patient_of(tmp_path).recipe
    folder = Path(recipe.training.output_dir)
    folder.mkdir()
    assert not told(check_settings(recipe), PROBLEM)
    (folder / "config.json").write_text("{}")
    assert "already holds a model" in told(check_settings(recipe), PROBLEM)


def test_sizes_are_those_of_the_parts_without_memory_for_weights(tmp_path: Path) -> None:
    recipe = patient_of(tmp_path).recipe
    model = skeleton(recipe)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(part_sizes(recipe).values()) == count
    assert (opened_bytes(recipe), parameter_bytes(recipe)) == (4, 4 * count)
    halved = patient_of(tmp_path, dtype="bfloat16").recipe
    assert (opened_bytes(halved), parameter_bytes(halved)) == (2, 2 * count)


def test_the_model_is_told_part_by_part(tmp_path: Path) -> None:
    patient = patient_of(tmp_path, freeze=["vision_tower"])
    sizes = part_sizes(patient.recipe)
    text = told(check_model(patient), OK)
    assert f"vision_tower {sizes['vision_tower']:,} (frozen)" in text
    assert f"{sizes['projector'] + sizes['language_model']:,} trained" in text


def test_what_no_embedding_depends_on_is_not_trained(tmp_path: Path) -> None:
    """As the first lines of a run count it: the tower's last norm is behind the layer that is looked at."""
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "tiny.yaml")
    (found,) = check_model(Patient(recipe, None, fast=True, tflops=100.0, devices=1))
    assert found.text.endswith("; 2,562,560 trained, 320 frozen")
    with torch.device("meta"):
        model = LlaveModel(config_of(recipe))
    freeze_parts(model, ())
    assert count_parameters(model) == (2_562_560, 320)


def test_disk_counts_checkpoints_and_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = patient_of(tmp_path, save_total_limit=2)
    trained, every = tuned_sizes(patient.recipe).trained, sum(part_sizes(patient.recipe).values())
    # Two are kept, the third is written before one goes: of all the weights, of what is trained two moments.
    needed = 3 * (every * 4 + trained * 8) + every * 4

    def free(count: int) -> list[str]:
        usage = type("Usage", (), {"free": count})
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
        return [finding.level for finding in check_disk(patient)]

    assert (free(needed), free(needed - 1)) == ([OK], [PROBLEM])


def test_checks_of_data_say_nothing_where_none_opened(tmp_path: Path) -> None:
    assert [*check_loss(patient_of(tmp_path)), *check_batches(patient_of(tmp_path))] == []


def test_the_benchmark_is_read_as_training_would_read_it(tmp_path: Path) -> None:
    rows = {"A": [make_row("q", ["right", "wrong"])], "B": [make_row("<|image_1|>", ["a"], image="gone.png")]}
    path = write_benchmark(tmp_path / "benchmark", rows)
    recipe = patient_of(write_training_data(tmp_path), eval_benchmark=str(path)).recipe
    dataset, findings = open_data(recipe)
    assert dataset is not None and len(dataset) == 48
    assert "B, row 0" in told(iter(findings), PROBLEM) and "gone.png does not exist" in told(iter(findings), PROBLEM)
    write_benchmark(tmp_path / "benchmark", {"A": rows["A"]})
    assert "benchmark small: 1 subsets, every file exists" in told(iter(open_data(recipe)[1]), OK)


def test_a_check_that_fails_stops_nothing_but_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_teacher(patient: Patient) -> Iterator[Finding]:
        yield Finding(OK, "teacher", "its first line")
        raise ValueError("the teacher fell ill")

    def check_model(patient: Patient) -> Iterator[Finding]:
        raise OSError("the teacher fell ill")
        yield

    monkeypatch.setattr(examination, "check_teacher", check_teacher)
    monkeypatch.setattr(examination, "check_model", check_model)
    recipe = write_recipe(write_training_data(tmp_path), per_device_train_batch_size=8)
    findings = list(examination.examine(str(recipe), fast=True, tflops=100.0))
    assert Finding(OK, "teacher", "its first line") in findings
    assert [finding for finding in findings if finding.level == PROBLEM] == [
        Finding(PROBLEM, "teacher", "the teacher fell ill")  # once, though two checks say so
    ]
    assert {"disk", "memory", "time"} <= {finding.part for finding in findings}
