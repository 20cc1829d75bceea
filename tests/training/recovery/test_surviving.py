"""Runs that are killed, run out of disk, meet bad samples or numbers that are not finite."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_recipe, write_training_data
from step_helpers import to_double
from transformers import TrainerCallback

from llave_hf.data.pairs import load_pairs
from llave_hf.errors import UserError
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.recipe.recipe import Recipe, load_recipe
from llave_hf.training.recovery import whole_folders
from llave_hf.training.recovery.bad_sample_log import LIST_FILE, BadSampleLog
from llave_hf.training.recovery.bad_samples import TracedCollator
from llave_hf.training.recovery.postmortem import first_not_finite
from llave_hf.training.reproduce import reproduce
from llave_hf.training.run import find_checkpoint, train
from llave_hf.training.trainer import LlaveTrainer

WORKER = Path(__file__).with_name("killing.py")
ROOT = Path(__file__).parents[3]
# The card says when and from what it was made; the arguments of a run name its folder.
OWN = {"README.md", "training_args.json", "recipe.yaml"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_training_data(tmp_path / "data", rows=12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a run of two steps with a checkpoint of each, all of it in one folder."""
    data = write_training_data(tmp_path_factory.mktemp("trained") / "data", rows=12)
    recipe = write_recipe(data, max_steps=2, save_steps=1)
    train(load_recipe(recipe))
    return recipe


def break_picture(root: Path, number: int) -> Path:
    path = root / "images" / f"{number}.png"
    path.write_bytes(path.read_bytes()[:60])
    return path


def survive(root: Path, recipe: Path, *moments: str) -> tuple[list[dict[str, Any]], str]:
    """What killing.py says of each moment, and what the runs wrote to stderr."""
    done = subprocess.run(
        [sys.executable, str(WORKER), str(recipe), str(root / "runs"), *moments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)},
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits(data: Path) -> None:
    """Mixed tasks, cached gradients, telemetry, a bad sample; the rate is constant, so a step too many would show."""
    break_picture(data, 3)
    recipe = write_recipe(
        data,
        max_steps=4,
        save_steps=2,
        save_total_limit=1,
        mini_batch_num_tokens=64,
        batch_tasks="mixed",
        lr_scheduler_type="constant",
        on_bad_sample="skip",
    )
    (whole,), _ = survive(data, recipe)
    count = whole["changes"]
    assert count > 150
    moments = [str(1 + round(place * (count - 2) / 11)) for place in range(12)]
    told, stderr = survive(data, recipe, *moments, "at:1500", "at:60000", "at:150000")
    seen = set()
    for entry in told:
        assert entry["killed"] == (-25 if entry["moment"].startswith("at:") else -9), entry
        assert entry["resumed"] == 0, (entry, stderr[-4000:])
        different = [name for name in entry["files"] if name not in entry["equal"] and Path(name).name not in OWN]
        assert not different, (entry["moment"], different)
        assert {"model.safetensors", "telemetry.json", LIST_FILE, "checkpoint-4/optimizer.pt"} <= set(entry["equal"])
        assert not [name for name in entry["files"] if name.startswith(("_unfinished", "checkpoint-2"))]
        seen |= set(entry["left"])
    assert {"_unfinished", "checkpoint-2", "checkpoint-4", "config.json"} <= seen  # all kinds of moments were met
    assert "removed what a stopped run left unfinished" in stderr


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(data: Path) -> None:
    recipe = write_recipe(data, max_steps=4, save_steps=2, save_total_limit=1)
    (_, *told), stderr = survive(data, recipe, "full:_unfinished/checkpoint-4", "full:checkpoint-4/trainer_state.json")
    for entry in told:
        assert entry["killed"] == 1
        assert "checkpoint-2" in entry["left"]
        assert "checkpoint-4" not in entry["left"]
        assert entry["resumed"] == 0
        assert "model.safetensors" in entry["equal"]
    assert stderr.count("UserError: the checkpoint of step 4 could not be written to") == 2
    assert "killed/checkpoint-2 is whole. Mend the cause (a full disk?)" in stderr


def test_half_a_folder_is_never_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(whole_folders.logger, "warning", said.append)
    place = tmp_path / "checkpoint-2"

    def write(text: str, *, fail: bool = False) -> None:
        with whole_folders.whole_folder(place) as staged:
            (staged / "a").write_text(text)
            assert not place.exists() or (place / "a").read_text() != text
            if fail:
                raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write("half", fail=True)
    assert [path.name for path in tmp_path.iterdir()] == ["_unfinished"]
    whole_folders.clear_leftovers(tmp_path)
    assert said == [f"removed what a stopped run left unfinished in {tmp_path}/_unfinished: checkpoint-2."]
    write("one")
    write("two")
    assert (place / "a").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    # Killed between the two moves: the older one comes back.
    (tmp_path / "_unfinished").mkdir()
    place.rename(tmp_path / "_unfinished" / "replaced-checkpoint-2")
    whole_folders.clear_leftovers(tmp_path)
    assert (place / "a").read_text() == "two"


def test_all_of_a_folder_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, synced = tmp_path / "checkpoint-2", list[int]()

    def sync(descriptor: int) -> None:
        if not place.exists():
            synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    with whole_folders.whole_folder(place) as staged:
        (staged / "inner").mkdir()
        (staged / "a").write_text("a")
        (staged / "inner" / "b").write_text("b")
    assert {path.stat().st_ino for path in (place, *place.rglob("*"))} <= set(synced)
    assert len(list(place.rglob("*"))) == 3


def test_a_refused_start_leaves_another_run_alone(data: Path) -> None:
    recipe = load_recipe(write_recipe(data))
    unfinished = data / "out" / "_unfinished" / "checkpoint-3"
    unfinished.mkdir(parents=True)
    (data / "out" / "checkpoint-2").mkdir()
    with pytest.raises(UserError, match="already holds a model or checkpoints"):
        find_checkpoint(recipe)
    assert unfinished.exists()
    recipe.training.resume_from_checkpoint = "true"
    assert find_checkpoint(recipe) == str(data / "out" / "checkpoint-2")
    assert not unfinished.exists()


def test_a_checkpoint_that_does_not_fit_says_which_settings_changed(trained: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(trained.parent / "out" / "checkpoint-1", tmp_path / "checkpoint-1")
    again = ["--output_dir", str(tmp_path / "again"), "--resume_from_checkpoint", str(checkpoint)]
    for change, name in (
        (["--hardness_source", "ema"], "hardness_source"),
        (["--learn_temperature"], "learn_temperature"),
        (["--lora", "{r: 2}"], "lora"),
        (["--muon_learning_rate", "0.01"], "muon_learning_rate"),
    ):
        with pytest.raises(UserError, match=rf"checkpoint-1 cannot be gone on from .*changed since: {name}; take"):
            train(load_recipe(trained, [*again, *change]))
    (checkpoint / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"checkpoint-1 cannot be gone on from .*: a file may be broken"):
        train(load_recipe(trained, again))


def test_what_changed_since_a_checkpoint_is_told_in_one_line(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster gave fewer devices, say; how often something is logged is nothing to tell."""
    monkeypatch.setattr(logging.getLogger("llave_hf"), "propagate", True)

    def told(number: int, *change: str, processes: int = 1) -> list[str]:
        run = tmp_path / str(number)
        shutil.copytree(trained.parent / "out" / "checkpoint-1", run / "checkpoint-1")
        shutil.copytree(trained.parent / "out" / "initial", run / "initial")
        file = run / "checkpoint-1" / "training_args.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "processes": processes}))
        caplog.clear()
        train(load_recipe(trained, ["--output_dir", str(run), "--resume_from_checkpoint", *change]))
        lines = [record.getMessage() for record in caplog.records]
        return [line.partition(" was written with ")[2] for line in lines if " was written with " in line]

    assert told(0) == told(1, "--logging_steps", "1", "--save_steps", "7") == []
    (line,) = told(2, "--learning_rate", "0.25", "--seed", "3", processes=8)
    assert line.startswith(
        "learning_rate 0.001, now 0.25; processes 8, now 1; seed 42, now 3. The run ends with other"
    )
    assert line.endswith("the optimizer that it goes on with keeps its learning_rate.")
    (line,) = told(3, "--temperature", "0.5")
    assert line.startswith("temperature 0.1, now 0.5. ") and line.endswith("never stopped.")


def test_a_run_does_not_go_on_with_a_model_of_another_shape(trained: Path) -> None:
    with pytest.raises(UserError, match=r"initial was built with .*text_config.hidden_size 24, the recipe says 32"):
        train(load_recipe(trained, ["--resume_from_checkpoint", "--from_scratch.text_config.hidden_size", "32"]))


def trainer_for(data: Path, **changes: Any) -> LlaveTrainer:
    """A trainer as `train` makes it, with everything of its recipe."""
    from helpers import tiny_model

    recipe = load_recipe(write_recipe(data, **changes))
    (data / "out").mkdir(exist_ok=True)
    model, processor = tiny_model(processor={"image_tiling": "none"})
    return LlaveTrainer(
        model,
        recipe.training,
        train_dataset=load_pairs(str(data / "train"), media_root=str(data)),
        processing_class=processor,
    )


@pytest.mark.parametrize("caching", [False, True])
def test_the_loss_of_a_mended_batch_is_the_loss_without_the_bad_pair(data: Path, caching: bool) -> None:
    trainer = trainer_for(data, on_bad_sample="skip", gradient_caching=caching)
    to_double(trainer.model)
    trainer.objective.loss.double()
    pairs = [trainer.train_dataset[index] for index in range(5)]
    gradients = []
    for broken, batch in ((False, pairs[:2] + pairs[3:]), (True, pairs)):
        if broken:
            break_picture(data, 2)
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = 1
        inputs = trainer.data_collator(batch)
        assert [report["row"] for report in inputs["bad_samples"]] == [2] * broken
        loss = trainer.training_step(trainer.model.train(), inputs)
        gradients.append([loss, *[p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]])
    assert gradients[0][0] > 0
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() <= 1e-12
    assert "bad_samples" in trainer.bad_samples.logs()


def test_where_all_pairs_are_bad_another_row_is_drawn_and_a_bad_negative_is_left_out(data: Path) -> None:
    path = data / "train" / "Caption" / "original.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row |= {"neg_text": ["a", "<|image_1|>\n", "b"], "neg_image_path": ["", "images/9.png", ""]}
        row |= {"neg_hardness": [0.25, 0.5, 0.75], "pos_score": 1.0, "neg_score": [0.125, 0.0, 0.375]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = trainer_for(data)
    dataset = load_pairs(str(data / "train"), media_root=str(data), subsets=["Caption"])
    collator = TracedCollator(trainer.data_collator.collator, dataset, skip=True)
    for number in (0, 1, 9):
        break_picture(data, number)
    batch = collator([dataset[0], dataset[1]])
    (row,) = {pair.row for pair in batch["pairs"]}
    assert row not in (0, 1, 9)
    assert len(batch["pairs"]) == len(batch["query_index"]) == 2
    assert [negative.text for negative in batch["pairs"][0].negatives] == ["a", "b"]
    assert batch["pairs"][0].negative_hardness == (0.25, 0.75)
    assert batch["pairs"][0].negative_scores == (0.125, 0.375)
    named = {(report["row"], report["role"], report["place"]) for report in batch["bad_samples"]}
    assert {(0, "positive", 0), (1, "positive", 0), (0, "negative", 1), (row, "negative", 1)} <= named
    assert collator([dataset[0], dataset[1]])["pairs"] == batch["pairs"]
    for number in range(12):
        break_picture(data, number)
    with pytest.raises(ValueError, match="Caption, row 0 cannot be used, nor any of 100 rows of Caption"):
        collator([dataset[0], dataset[1]])


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_samples_are_counted_logged_and_named_once(
    data: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("llave_hf.training.recovery.bad_sample_log.logger.warning", said.append)
    broken = break_picture(data, 3)
    trainer = train(
        load_recipe(
            write_recipe(data, on_bad_sample="skip", dataloader_num_workers=workers, num_train_epochs=2, max_steps=-1)
        )
    )
    listed = [json.loads(line) for line in (data / "out" / LIST_FILE).read_text().splitlines()]
    assert sorted((entry["source"], entry["row"], entry["role"]) for entry in listed) == [
        ("Caption", 3, "positive"),
        ("Question", 3, "query"),
    ]
    assert all(entry["files"] == ["images/3.png"] and str(broken) in entry["reason"] for entry in listed)
    assert len(said) == 2
    assert all("row 3: it, for its" in line for line in said)
    counts = [entry["bad_samples"] for entry in trainer.state.log_history if "bad_samples" in entry]
    assert counts == sorted(counts)
    assert counts[-1] == 2


def test_too_many_bad_samples_end_the_run(data: Path) -> None:
    for number in range(6):
        break_picture(data, number)
    recipe = load_recipe(write_recipe(data, on_bad_sample="skip", max_bad_samples=3, save_strategy="no"))
    with pytest.raises(UserError, match=r"step \d: [4-9] samples cannot be used, more than max_bad_samples \(3\)"):
        train(recipe)
    assert 4 <= len((data / "out" / LIST_FILE).read_text().splitlines()) <= 8


def test_a_bad_sample_is_an_error_unless_the_recipe_says_otherwise(data: Path) -> None:
    for number in range(12):
        break_picture(data, number)
    with pytest.raises(ValueError, match=r"(Caption|Question), row \d+: .*images/\d+\.png"):
        train(load_recipe(write_recipe(data)))


def test_what_was_found_after_a_checkpoint_is_found_again_when_it_is_gone_on_from(data: Path) -> None:
    log = BadSampleLog(load_recipe(write_recipe(data, on_bad_sample="skip")).training, rows=24)
    (data / "out").mkdir()
    (data / "checkpoint").mkdir()

    def meet(row: int, step: int) -> None:
        about = {"source": "Caption", "row": row, "role": "query", "place": 0, "files": [], "text": "", "reason": "x"}
        log.take({"bad_samples": [about]}, step)

    meet(1, 1)
    log.save_state(str(data / "checkpoint"))
    meet(2, 2)
    assert log.logs() == {"bad_samples": 2}
    log.load_state(str(data / "checkpoint"))
    assert log.logs() == {"bad_samples": 1}
    assert [json.loads(line)["row"] for line in (data / "out" / LIST_FILE).read_text().splitlines()] == [1]


def test_embeddings_that_are_not_finite_stop_the_run_and_are_kept(data: Path) -> None:
    recipe = load_recipe(write_recipe(data, learning_rate=1e38, save_steps=1))
    with pytest.raises(UserError) as stopped:
        train(recipe)
    message = str(stopped.value)
    assert message.startswith("step 2: embeddings are not finite (4 rows, of rank 0: ")
    assert "first such parameter: backbone." in message
    assert f"{data}/out/checkpoint-1 is whole" in message
    folder = data / "out" / "postmortem-2"
    rows = json.loads((folder / "rank-0.json").read_text())[0]
    assert len(rows) == 4
    assert all(row["finite"] is False and row["query"]["text"] for row in rows)
    assert f"{rows[0]['source']} row {rows[0]['row']}" in message
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    lines = list(reproduce(folder))
    assert lines[0] == "step 2: not finite: embeddings"
    assert lines[1].startswith("weights: not finite, first: backbone.")
    assert "rank 0, batch 0, micro-batch 0: not finite, first: backbone." in lines[2]


class InfiniteGradient(TrainerCallback):
    """One parameter's gradient is infinite at one step."""

    def __init__(self, step: int, name: str = "backbone.language_model.layers.1.mlp.up_proj.weight") -> None:
        self.step = step
        self.name = name
        self.before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: LlaveModel, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
            model.get_parameter(self.name).register_hook(lambda gradient: gradient * torch.inf)


@pytest.mark.parametrize("caching", [False, True])
def test_a_gradient_that_is_not_finite_stops_before_the_update(data: Path, caching: bool) -> None:
    trainer = trainer_for(data, gradient_caching=caching, save_strategy="no", gradient_accumulation_steps=2)
    plan = InfiniteGradient(2)
    trainer.add_callback(plan)
    with pytest.raises(UserError) as stopped:
        trainer.train()
    assert str(stopped.value).startswith("step 2: the gradient is not finite (batch of ")
    assert f"first such gradient: {plan.name}" in str(stopped.value)
    kept = LlaveModel.from_pretrained(data / "out" / "postmortem-2" / "model")
    assert all(torch.equal(parameter, plan.before[name]) for name, parameter in kept.named_parameters())
    report = json.loads((data / "out" / "postmortem-2" / "report.json").read_text())
    lines = list(reproduce(data / "out" / "postmortem-2"))
    assert lines[-1] == "gradient: finite"  # the hook is not there
    assert lines[-2] == f"loss: {report['ranks'][0]['loss'] * 2:.6g}"  # of half of the two batches


def test_a_post_mortem_of_adapters_looks_at_their_gradients(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "base_model.model.backbone.language_model.layers.1.mlp.up_proj.lora_B.default.weight"
    monkeypatch.setattr("transformers.trainer.DEFAULT_CALLBACKS", [InfiniteGradient(2, name)])
    with pytest.raises(UserError, match=f"the gradient is not finite .*first such gradient: {name}"):
        train(load_recipe(write_recipe(data, lora={"r": 2}, learning_rate=1e-2, save_strategy="no")))
    folder = data / "out" / "postmortem-2"
    looked_at: list[set[str]] = []

    def look(tensors: dict[str, torch.Tensor]) -> str | None:
        looked_at.append(set(tensors))
        return first_not_finite(tensors)

    monkeypatch.setattr("llave_hf.training.reproduce.first_not_finite", look)
    lines = list(reproduce(folder))
    loss = json.loads((folder / "report.json").read_text())["ranks"][0]["loss"]
    assert lines[1] == "weights: finite"
    assert lines[-2:] == [f"loss: {loss:.6g}", "gradient: finite"]  # the hook is not there
    assert name in looked_at[-1]
    assert {"lora_A", "lora_B", "modules_to_save"} == {
        kind for kind in ("lora_A", "lora_B", "modules_to_save", "base_layer") for n in looked_at[-1] if kind in n
    }
    (data / "out" / "initial").rename(data / "moved")
    with pytest.raises(UserError, match=r"the base model .*out/initial of .*/model cannot be opened"):
        list(reproduce(folder))


def test_an_infinite_gradient_under_a_scaler_is_the_scalers(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_for(data)
    monkeypatch.setattr(trainer.accelerator, "scaler", object())
    trainer.post_mortem.begin({})
    trainer._get_grad_norm(trainer.model, torch.tensor(torch.inf))
    assert trainer.post_mortem.batches == []


def test_a_folder_that_is_no_post_mortem_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no report\.json"):
        list(reproduce(tmp_path))


def test_values_of_the_settings_are_checked(data: Path) -> None:
    def settings(**changes: Any) -> Recipe:
        return load_recipe(write_recipe(data, **changes))

    with pytest.raises(ValueError, match="on_bad_sample is 'ignore'; choose 'raise' or 'skip'"):
        settings(on_bad_sample="ignore")
    with pytest.raises(ValueError, match="max_bad_samples is -1"):
        settings(max_bad_samples=-1)
