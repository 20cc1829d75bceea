"""LlaveTrainer on one process: its loss, its resume, its folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file

from llave_hf.data.pairs import load_pairs
from llave_hf.train import main
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train
from llave_hf.training.summary import describe_micro_batches, sample_tokens
from llave_hf.training.trainer import LlaveTrainer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_training_data(tmp_path)


def make_trainer(root: Path, **changes: object) -> LlaveTrainer:
    model, processor = tiny_model(processor={"image_tiling": "none"})
    options = {"per_device_train_batch_size": 4, "max_steps": 1, "use_cpu": True, "report_to": "none", **changes}
    arguments = LlaveTrainingArguments(output_dir=str(root / "out"), **options)
    pairs = load_pairs(str(root / "train"), media_root=str(root))
    return LlaveTrainer(model, arguments, train_dataset=pairs, processing_class=processor)


def test_the_loss_is_the_dense_formula_on_the_batch(data: Path) -> None:
    trainer = make_trainer(data, temperature=0.1, hardness_strength=2.0)
    batch = next(iter(trainer.get_train_dataloader()))
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    similarities = outputs["query_embeddings"] @ outputs["document_embeddings"].T
    weights = 2.0 * similarities.detach()
    logits = similarities / 0.1 + weights.fill_diagonal_(0)
    labels = torch.arange(4)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, labels) + entropy(logits.T, labels)) / 2
    torch.testing.assert_close(loss, expected)


def test_the_model_says_to_which_lengths_its_vectors_may_be_cut(data: Path) -> None:
    trainer = make_trainer(data, matryoshka_dims=[8, 24])
    assert trainer.model.config.matryoshka_dimensions == [24, 8]
    assert make_trainer(data).model.config.matryoshka_dimensions is None


def test_accumulated_gradients_are_the_mean_over_batches_and_a_warning_says_that_no_negative_is_added(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("llave_hf.training.recipe.arguments.logger.warning", messages.append)
    trainer = make_trainer(data, gradient_accumulation_steps=2)
    assert "adds no negatives" in messages[0]
    assert "still sees 3" in messages[0]
    batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, trainer.args.device)
    assert all("labels" in batch for batch in batches)  # of which Trainer may think that the loss is a sum over them
    trainer.optimizer = None
    trainer.create_optimizer()
    expected: dict[str, torch.Tensor] = {}
    for batch in batches:
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model.train(), batch).backward()
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                expected[name] = expected.get(name, 0) + parameter.grad / 2
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 2
    for batch in batches:
        trainer.training_step(trainer.model, batch, items)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0
    for name, parameter in trainer.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)


@pytest.mark.parametrize("part", ["vision_tower", "projector", "language_model"])
def test_a_frozen_part_does_not_change_by_a_bit(data: Path, part: str) -> None:
    trainer = make_trainer(data, freeze=[part], max_steps=2, learning_rate=1e-2)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    prefix = {"projector": "backbone.multi_modal_projector"}.get(part, f"backbone.{part}")
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith(prefix)]


@pytest.mark.parametrize("limits", [{}, {"mini_batch_num_tokens": 100, "freeze": ["vision_tower"]}], ids=str)
def test_resume_goes_on_to_the_same_weights_to_the_bit(data: Path, limits: dict[str, object]) -> None:
    """Across an epoch's end: 12 steps an epoch, 14 in all, broken after 7."""
    whole = write_recipe(data, output_dir=str(data / "whole"), max_steps=14, save_steps=7, **limits)
    train(load_recipe(whole))
    broken = data / "broken"
    broken.mkdir()
    shutil.copytree(data / "whole" / "checkpoint-7", broken / "checkpoint-7")
    shutil.copytree(data / "whole" / "initial", broken / "initial")
    train(load_recipe(whole, ["--output_dir", str(broken), "--resume_from_checkpoint"]))
    expected, found = load_file(data / "whole/model.safetensors"), load_file(broken / "model.safetensors")
    start = load_file(data / "whole/initial/model.safetensors")
    assert expected.keys() == found.keys()
    assert any(not torch.equal(expected[name], start[name]) for name in expected)
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_the_folder_holds_the_recipe_and_no_pickle(data: Path) -> None:
    train(load_recipe(write_recipe(data, max_steps=1, save_strategy="no")))
    names = {path.name for path in (data / "out").iterdir()}
    assert {"config.json", "model.safetensors", "modules.json", "processor_config.json", "recipe.yaml"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert json.loads((data / "out" / "training_args.json").read_text())["max_steps"] == 1


def test_a_folder_with_a_model_is_not_overwritten(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(data, max_steps=1, save_strategy="no")
    train(load_recipe(recipe))
    with pytest.raises(SystemExit) as stopped:
        main([str(recipe)])
    assert stopped.value.code == 2
    assert "already holds a model or checkpoints; go on with --resume_from_checkpoint" in capsys.readouterr().err


def test_what_will_happen_is_said_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(load_recipe(write_recipe(data, max_steps=1, save_strategy="no")))
    said = capsys.readouterr().out
    assert "3 per query" in said
    assert "48 pairs of 2 tasks, one in a batch" in said
    assert "1 x cpu, float32" in said
    assert "1, 12 an epoch" in said
    assert "about 2 micro-batches a step and device, one a kind" in said
    assert "holds the graph of all" in said


def test_the_plan_of_micro_batches_is_said_and_how_full_they_are_is_logged(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(data, max_steps=2, save_strategy="no", mini_batch_num_tokens=120, mini_batch_size=3)
    trainer = train(load_recipe(recipe))
    said = capsys.readouterr().out
    found = re.search(
        r"about (\d) micro-batches a step and device of at most 3 samples and 120 tokens, (\d+)% full", said
    )
    assert found is not None, said
    assert "holds the graph of one at a time" in said
    fills = [entry["token_fill"] for entry in trainer.state.log_history if "token_fill" in entry]
    assert len(fills) == 2
    assert all(0.8 < fill <= 1 for fill in fills)
    batch = list(trainer.get_train_dataloader())[1]
    masks = [part["attention_mask"] for part in batch["micro_batches"]]
    assert fills[1] == pytest.approx(sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks), abs=1e-3)
    assert len(masks) == int(found[1])
    trainer.args.graph_memory_gb = 0.5
    sampled = sample_tokens(trainer.data_collator, trainer.train_dataset)
    assert describe_micro_batches(trainer.args, sampled).endswith("holds graphs of 0.5 GiB, or of one micro-batch")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "images/3.png").unlink(), r"images/3\.png"),
        (lambda root: (root / "train/Caption/original.jsonl").write_text("{}\n"), "Caption"),
    ],
)
def test_bad_data_is_one_clear_line_before_any_training(
    data: Path, capsys: pytest.CaptureFixture[str], break_it: object, message: str
) -> None:
    break_it(data)  # type: ignore[operator]
    with pytest.raises(SystemExit) as stopped:
        main([str(write_recipe(data))])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("llave: error: ")
    assert message.replace("\\", "") in error
    assert not (data / "out" / "initial").exists()
