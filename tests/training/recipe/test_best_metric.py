"""Settings that ask for a metric: they get one, it is there, and higher is better; else the run does not begin."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_helpers import make_row, write_benchmark
from helpers import picture, tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback

from llave_hf.data.pairs import load_pairs
from llave_hf.doctor import examine
from llave_hf.errors import UserError
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.best_metric import check_metric, metric_names
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train
from llave_hf.training.trainer import LlaveTrainer

EVALUATES = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
COLOURS = ("red", "green", "blue", "white")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training data, and a benchmark of two subsets in two groups."""
    write_training_data(tmp_path)
    for number, _ in enumerate(COLOURS):
        picture(seed=90 + number).save(tmp_path / f"{number}.png")
    shown = [
        make_row("What?\n", [colour, *(other for other in COLOURS if other != colour)], image=f"{number}.png")
        for number, colour in enumerate(COLOURS)
    ]
    told = [make_row(f"a {colour} dog", [colour, "nothing"]) for colour in COLOURS]
    options = {"Total_loss": {"meta_task": "vqa", "distribution": "out"}}
    write_benchmark(tmp_path, {"Colours": shown, "Total_loss": told}, options)
    return tmp_path


def recipe_of(root: Path, **changes: Any) -> Any:
    return load_recipe(write_recipe(root, eval_benchmark=str(root / "benchmark.yaml"), **changes))


def arguments(tmp_path: Path, **changes: Any) -> LlaveTrainingArguments:
    return LlaveTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none", **changes)


def trainer_of(root: Path, args: LlaveTrainingArguments, **kwargs: Any) -> LlaveTrainer:
    model, processor = tiny_model(processor={"image_tiling": "none"})
    kwargs.setdefault("eval_dataset", load_benchmark(root / "benchmark.yaml"))
    pairs = load_pairs(str(root / "train"), media_root=str(root))
    return LlaveTrainer(model, args, train_dataset=pairs, processing_class=processor, **kwargs)


ASKING = [
    {"load_best_model_at_end": True},
    {"lr_scheduler_type": "reduce_lr_on_plateau"},
    {"lr_scheduler_type": "greedy"},
    {"save_strategy": "best"},
]


@pytest.mark.parametrize("asking", ASKING, ids=str)
def test_what_asks_for_a_metric_gets_the_mean_over_all_subsets(tmp_path: Path, asking: dict[str, Any]) -> None:
    args = arguments(tmp_path, **{**EVALUATES, **asking})
    assert (args.metric_for_best_model, args.greater_is_better) == ("mean_overall", True)


def test_what_asks_for_none_gets_none(tmp_path: Path) -> None:
    assert arguments(tmp_path, **EVALUATES).metric_for_best_model is None


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_the_metric_takes_higher_for_better(root: Path, kind: str) -> None:
    """torch's schedule lowers the rate where a loss has not fallen, and precision rises."""
    trainer = train(recipe_of(root, **EVALUATES, lr_scheduler_type=kind, lr_scheduler_kwargs={"patience": 7}))
    assert (trainer.lr_scheduler.mode, trainer.lr_scheduler.patience) == ("max", 7)
    logged = [entry["eval_mean_overall"] for entry in trainer.state.log_history if "eval_mean_overall" in entry]
    assert trainer.lr_scheduler.best == max(logged[:3])  # the last is of the finished model


@pytest.mark.parametrize("lora", [None, {"r": 2, "alpha": 2}], ids=["whole", "lora"])
def test_the_best_model_comes_back(root: Path, lora: dict[str, int] | None) -> None:
    changes = {"load_best_model_at_end": True, "learning_rate": 0.05, "max_steps": 6, "lora": lora}
    trainer = trainer_of(root, arguments(root, **EVALUATES, **changes, per_device_train_batch_size=4))
    trainer.train()
    history = {e["step"]: e["eval_mean_overall"] for e in trainer.state.log_history if "eval_mean_overall" in e}
    assert sorted(history) == [2, 4, 6]
    assert trainer.state.best_metric == max(history.values())
    best = Path(trainer.state.best_model_checkpoint or "")
    assert history[int(best.name.rpartition("-")[2])] == trainer.state.best_metric
    if lora is None:
        saved, own = load_file(best / "model.safetensors"), trainer.model.state_dict()
    else:
        peft = pytest.importorskip("peft")
        saved, own = load_file(best / "adapter_model.safetensors"), peft.get_peft_model_state_dict(trainer.model)
    assert set(saved) <= set(own)
    for name, value in saved.items():
        assert torch.equal(value, own[name]), name


def test_early_stopping_gets_the_metric_too(root: Path) -> None:
    args = arguments(root, **EVALUATES, max_steps=20, learning_rate=0.0, per_device_train_batch_size=4)
    trainer = trainer_of(root, args, callbacks=[EarlyStoppingCallback(early_stopping_patience=2)])
    trainer.train()
    assert args.metric_for_best_model == "mean_overall"
    assert trainer.state.global_step == 6  # the first counts as an improvement, the next two do not


@pytest.mark.parametrize("name", ["mean_vqa", "eval_mean_in", "Colours", "eval_Total_loss"])
def test_names_that_evaluation_gives_are_taken_with_the_prefix_and_without(root: Path, name: str) -> None:
    args = arguments(root, **EVALUATES, load_best_model_at_end=True, metric_for_best_model=name)
    assert args.greater_is_better is True  # also of a subset whose name ends in "loss"
    check_metric(args, load_benchmark(root / "benchmark.yaml"))


def test_the_names_are_those_of_an_evaluation(root: Path) -> None:
    trainer = trainer_of(root, arguments(root))
    given = {name.removeprefix("eval_") for name in trainer.evaluate()} - {"epoch"}
    assert set(metric_names(load_benchmark(root / "benchmark.yaml"))) == given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {**EVALUATES, "metric_for_best_model": "loss"},
            r"metric_for_best_model is 'loss', which evaluation on small does not give; there are mean_retrieval, "
            r"mean_vqa, mean_in, mean_out, mean_overall, Colours, Total_loss\.",
        ),
        (
            {**EVALUATES, "metric_for_best_model": "Total_loss", "eval_subsets": ["Colours"]},
            r"'Total_loss', which evaluation on small does not give; there are mean_retrieval, mean_in, mean_overall",
        ),
        ({"metric_for_best_model": "mean_overall"}, "and eval_strategy is no, so nothing is evaluated"),
        ({"eval_strategy": "steps", "eval_subsets": ["Colour"]}, "no subset 'Colour'"),
    ],
)
def test_a_metric_that_is_not_there_is_refused_before_a_model_is_opened(
    root: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(root, **changes)
    monkeypatch.setattr("llave_hf.training.run.load_model", lambda *_: pytest.fail("a model was opened"))
    with pytest.raises(ValueError, match=message):
        train(recipe)
    path = write_recipe(root, eval_benchmark=str(root / "benchmark.yaml"), **changes)
    problems = [finding.text for finding in examine(str(path), tflops=1.0, fast=True) if finding.level == "PROBLEM"]
    assert len(problems) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(problems[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({**EVALUATES, "load_best_model_at_end": True}, "load_best_model_at_end"),
        (EVALUATES, "eval_strategy"),
        ({"eval_on_start": True}, "eval_on_start"),
        ({"metric_for_best_model": "mean_overall"}, "metric_for_best_model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_asks_for_evaluation_needs_a_benchmark(root: Path, changes: dict[str, Any], named: str) -> None:
    message = f"^{named} asks for evaluation during training, and there is no benchmark: give eval_benchmark"
    with pytest.raises(UserError, match=message):
        train(load_recipe(write_recipe(root, **changes)))
    with pytest.raises(UserError, match=message):
        trainer_of(root, arguments(root, **changes), eval_dataset=None)
    found = examine(str(write_recipe(root, **changes)), tflops=1.0, fast=True)
    assert any(finding.text.startswith(named) for finding in found if finding.level == "PROBLEM")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**EVALUATES, "metric_for_best_model": "mean_in", "greater_is_better": False}, "greater_is_better is False"),
        (
            {**EVALUATES, "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "min"}},
            "lr_scheduler_kwargs.mode is 'min', but a higher precision is the better one",
        ),
        ({"load_best_model_at_end": True}, "eval_strategy is no while save_strategy is steps"),
        (
            {**EVALUATES, "save_strategy": "epoch", "load_best_model_at_end": True},
            "eval_strategy is steps while save_strategy is epoch",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        arguments(tmp_path, **changes)


def test_evaluations_without_a_checkpoint_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        arguments(tmp_path, **{**EVALUATES, "save_steps": 4}, load_best_model_at_end=True)
        assert "with eval_steps 2 and save_steps 4 not every evaluation has one" in caplog.text
        caplog.clear()
        arguments(tmp_path, **EVALUATES, load_best_model_at_end=True)
        arguments(tmp_path, **{**EVALUATES, "save_strategy": "best"}, load_best_model_at_end=True)
        arguments(tmp_path, **{**EVALUATES, "save_steps": 4})
    assert not caplog.text


def test_a_checkpoint_without_an_optimizer_is_not_gone_on_from(root: Path) -> None:
    train(load_recipe(write_recipe(root, save_only_model=True)))
    checkpoint = root / "out" / "checkpoint-3"
    with pytest.raises(UserError, match=r"checkpoint-3 holds no optimizer and no schedule \(save_only_model\)"):
        train(load_recipe(write_recipe(root), ["--resume_from_checkpoint", str(checkpoint)]))
