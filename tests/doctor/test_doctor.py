"""`llave doctor` names what a recipe would run into, before anything is trained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones import save_backbone
from helpers import write_recipe, write_training_data
from torch import nn

from llave_hf import LlaveModel
from llave_hf.cli import main
from llave_hf.doctor import Finding, estimates, examine
from llave_hf.doctor.estimates import memory, step_flops
from llave_hf.doctor.model_sizes import config_of, part_sizes, skeleton
from llave_hf.model.media_llave import MediaError
from llave_hf.training.recipe.recipe import Recipe, load_recipe


def examined(root: Path, **changes: Any) -> list[Finding]:
    return list(examine(str(write_recipe(root, **changes)), tflops=100.0))


def texts(findings: list[Finding], level: str) -> str:
    return "\n".join(finding.text for finding in findings if finding.level == level)


def test_a_sound_recipe(tmp_path: Path) -> None:
    findings = examined(write_training_data(tmp_path), per_device_train_batch_size=8)
    assert not texts(findings, "PROBLEM")
    assert {finding.part for finding in findings} == {"settings", "data", "batches", "model", "disk", "memory", "time"}
    assert "48 rows of 2 tasks; no row is empty, every file exists" in texts(findings, "ok")
    assert "Caption: 24 samples with pictures or videos opened" in texts(findings, "ok")


def test_settings(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    findings = examined(root, hardness_mode="all_negatives", gradient_accumulation_steps=2)
    assert "weighs rows' own negatives, but use_negatives is off" in texts(findings, "PROBLEM")
    assert "gradient_accumulation_steps 2 adds no negatives" in texts(findings, "note")
    assert "4 pairs a device" in texts(findings, "note")
    (unknown,) = examine(str(write_recipe(root)), ["--temprature", "0.1"])
    assert unknown.level == "PROBLEM"
    assert "did you mean 'temperature'" in unknown.text


def test_data(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    rows = (root / "train" / "Caption" / "original.jsonl").read_text().splitlines()
    rows[3] = rows[2]
    (root / "train" / "Caption" / "original.jsonl").write_text("\n".join(rows) + "\n")
    (root / "images" / "7.png").write_bytes((root / "images" / "7.png").read_bytes()[:60])
    findings = examined(root, per_device_train_batch_size=32)
    problems = texts(findings, "PROBLEM")
    assert "Caption: 1 files do not open: row 7: " in problems
    assert "7.png" in problems
    assert "Caption has 24 rows, fewer than a batch of 32" in problems
    assert "Caption: 1 of 24 rows looked at repeat another row" in texts(findings, "note")


def test_a_broken_file_is_a_note_where_it_is_passed_over(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    (root / "images" / "7.png").write_bytes(b"")
    findings = examined(root, on_bad_sample="skip")
    assert "row 7: " in texts(findings, "note")
    assert not texts(findings, "PROBLEM")
    assert "about " in " ".join(finding.text for finding in findings if finding.part == "memory")


def test_nothing_is_estimated_where_nothing_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise MediaError("a picture")

    monkeypatch.setattr(estimates, "load_sample", broken)
    findings = examined(write_training_data(tmp_path))
    assert "none of the samples looked at opens" in texts(findings, "PROBLEM")
    assert "time" not in {finding.part for finding in findings}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hardness_source": "column"}, "Caption, row 0: .*the row has no 'pos_hardness'"),
        ({"use_negatives": True}, "no row looked at has negatives: Caption, Question"),
        ({"hardness_strength_by_task": {"Captoin": 3.0}}, "names Captoin; the tasks are Caption, Question"),
        ({"matryoshka_dims": [99]}, "matryoshka_dims has 99; vectors have 24 dimensions"),
        ({"batch_tasks": "mixed", "batch_mix": {"Captoin": 1.0}}, "batch_mix has no task 'Captoin'"),
        ({"streaming": True, "stream_buffer_size": 2}, "stream_buffer_size is 2"),
        ({"per_device_train_batch_size": 0}, "batch_size is 0"),
        ({"hardness_source": "teacher", "hardness_teacher": "/no/model"}, "hardness_teacher /no/model"),
    ],
)
def test_what_training_would_refuse_as_it_begins(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    findings = examined(write_training_data(tmp_path), **changes)
    assert re.search(message, texts(findings, "PROBLEM")), findings
    assert any(finding.part == "disk" for finding in findings)


def test_a_cause_is_told_once(tmp_path: Path) -> None:
    findings = examined(write_training_data(tmp_path), lora={"modules": ["none_such"]})
    assert texts(findings, "PROBLEM").count("lora.modules names none_such") == 1


def test_a_missing_file_does_not_hide_the_rest(tmp_path: Path) -> None:
    root = write_training_data(tmp_path)
    (root / "images" / "5.png").unlink()
    findings = examined(root)
    assert "5.png" in texts(findings, "PROBLEM")
    assert any(finding.part == "model" for finding in findings)


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_training_data(tmp_path)
    assert "save_total_limit is not set" in texts(examined(root), "note")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert "GB free" in texts(examined(root, save_total_limit=2), "PROBLEM")


@pytest.mark.parametrize("kind", ["llava_onevision", "qwen2_vl"])
def test_sizes_are_the_models_own(kind: str, tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", kind)
    recipe = load_recipe(write_recipe(tmp_path, model=str(backbone), from_scratch=None, processor={}))
    model = LlaveModel.from_pretrained(backbone)
    assert sum(part_sizes(recipe).values()) == sum(parameter.numel() for parameter in model.parameters())
    assert config_of(recipe).backbone_config.model_type == kind


def test_a_published_checkpoint_can_be_the_model(tmp_path: Path) -> None:
    published = Path(__file__).parents[1] / "fixtures" / "model" / "tiny_2x2"
    recipe = load_recipe(write_recipe(tmp_path, model=str(published), from_scratch=None, processor={}))
    assert sum(part_sizes(recipe).values()) == 244_424


def test_estimates_follow_the_settings(tmp_path: Path) -> None:
    lengths = np.full(64, 1000)

    def estimated(**changes: Any) -> tuple[Any, float]:
        recipe = load_recipe(write_recipe(tmp_path, **changes))
        return memory(recipe, lengths), step_flops(recipe, lengths)

    (weights, states, activations), flops = estimated()
    parameters = weights / 4
    assert states == (parameters - 2 * 16) * 12  # no gradient reaches the norm behind the tower's last layer
    # Numbers that two layers of each keep: 24 wide with 48 inside and keys half as wide as queries; 16 with 32.
    language_model, tower = 2 * (6 * 24 + 3 * 24 + 4 * 48), 2 * (8 * 16 + 2 * 32)
    assert activations == pytest.approx((language_model + tower) * 4 * 1000 * 8)
    assert flops == pytest.approx(3 * 2 * 1000 * 8 * parameters, rel=0.1)
    (_, _, small), more = estimated(mini_batch_size=2)
    assert small == pytest.approx(activations / 4)
    assert more == pytest.approx(flops * 3.75 / 3)  # of four micro-batches, three run forward twice
    (_, _, doubled), fewer = estimated(mini_batch_size=2, graph_memory_gb=2 * small / 2**30)
    assert doubled == pytest.approx(2 * small)
    assert fewer == pytest.approx(flops * 3.5 / 3)
    all_kept = estimated(mini_batch_size=2, graph_memory_gb=9.0)
    assert all_kept == ((weights, states, pytest.approx(activations)), pytest.approx(flops))
    part = estimated(gradient_checkpointing=True, checkpoint_parts=["vision_tower"])[0][2]
    assert estimated(gradient_checkpointing=True)[0][2] < part < activations
    halved = estimated(bf16=True, master_weights="bfloat16")[0][2]
    assert 0.5 * activations < halved < 0.6 * activations  # norms go through float32
    autocast = estimated(bf16=True)[0][2]
    copies = 2 * sum(linear_weights(load_recipe(write_recipe(tmp_path))))
    assert autocast == pytest.approx(halved + (2 * 10 * 24 + 2 * 8 * 16) * 1000 * 8 + copies)
    room = (autocast - copies) / 2 + copies  # graphs and their copies: the batch has twice as many tokens
    assert estimated(bf16=True, mini_batch_size=2, graph_memory_gb=room / 2**30)[0][2] == pytest.approx(room)
    frozen = estimated(freeze=["vision_tower"])
    assert frozen[0][1] < states
    assert frozen[1] < flops


def linear_weights(recipe: Recipe) -> Iterator[int]:
    """Of tower and language model; no embedding depends on the tower's pooling, which is left out."""
    for name, module in skeleton(recipe).backbone.named_modules():
        if isinstance(module, nn.Linear) and "projector" not in name and "head" not in name:
            yield module.weight.numel()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(write_training_data(tmp_path))
    main(["doctor", str(recipe), "--fast", "--per_device_train_batch_size", "8"])
    report = capsys.readouterr().out
    assert "ok      data      48 rows of 2 tasks" in report
    assert "this machine's CPU, measured" in report
    with pytest.raises(SystemExit) as exit:
        main(["doctor", str(recipe), "--train_data", str(tmp_path / "nowhere")])
    assert exit.value.code == 1
    assert "1 problem(s)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["card", str(tmp_path), "--surplus"])
    assert "unrecognized arguments: --surplus" in capsys.readouterr().err


def test_findings_are_lines() -> None:
    assert str(Finding("note", "disk", json.dumps({}))) == "note    disk      {}"
