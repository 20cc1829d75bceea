"""The objective of a run: whose hardness, which α, which τ, and what a resumed run needs of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_recipe, write_training_data
from step_helpers import give_teacher, make_pairs, make_trainer, move_average, run_steps, write_media

from llave_hf import LlaveModel, LlaveSentenceTransformer
from llave_hf.errors import UserError
from llave_hf.training.objective.moving_average import MovingAverage
from llave_hf.training.objective.strength import HardnessStrength
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train
from llave_hf.training.trainer import LlaveTrainer

TEMPERATURE, STRENGTH = 0.1, 3.0  # of make_trainer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_media(tmp_path / "media")


def arguments(root: Path, **changes: Any) -> LlaveTrainingArguments:
    return LlaveTrainingArguments(output_dir=str(root), use_cpu=True, report_to="none", **changes)


def dense(queries: torch.Tensor, documents: torch.Tensor, hardness: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Both directions of Eq. 5 with any h; `out` are pairs that do not count."""
    weights = STRENGTH * hardness.detach()
    weights = weights.masked_fill(torch.eye(len(weights), dtype=torch.bool), 0.0)
    logits = (queries @ documents.T / TEMPERATURE + weights).masked_fill(out, -torch.inf)
    labels = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


@pytest.mark.parametrize("caching", [{}, {"mini_batch_size": 2}], ids=["one graph", "cached"])
@pytest.mark.parametrize("source", ["self", "teacher", "ema", "column"])
def test_hardness_comes_from_where_it_should(root: Path, source: str, caching: dict[str, int]) -> None:
    pairs = make_pairs(root, 6, kinds=("text",), judged=True)
    teacher = {"hardness_teacher": "a model"} if source == "teacher" else {}
    trainer = make_trainer(root, double=True, hardness_source=source, **teacher, **caching)
    own = trainer.model.eval()(**trainer.processing_class(text=[p.query.text for p in pairs])).embeddings
    documents = trainer.model(**trainer.processing_class(text=[p.positive.text for p in pairs])).embeddings
    hardness = own @ documents.T
    if source == "teacher":
        give_teacher(trainer, pairs)
        assert trainer.objective.teacher is not None
        ids = torch.tensor([[p.query.key(), p.positive.key()] for p in pairs])
        vectors = trainer.objective.teacher.embed(ids).double()
        hardness = vectors[:, 0] @ vectors[:, 1].T
    elif source == "ema":
        move_average(trainer)
        assert trainer.objective.average is not None
        copy = trainer.objective.average.model
        sides = ([p.query.text for p in pairs], [p.positive.text for p in pairs])
        one, other = (copy(**trainer.processing_class(text=side)).embeddings for side in sides)
        hardness = one @ other.T
    elif source == "column":
        hardness = torch.tensor([p.hardness for p in pairs], dtype=torch.float64).expand(6, -1)
    labels = torch.tensor([p.label for p in pairs])
    same = (labels[:, None] == labels) & (labels >= 0)[:, None] & ~torch.eye(6, dtype=torch.bool)
    assert same.any()
    expected = dense(own, documents, hardness, same)
    (loss,), gradients = run_steps(trainer, [pairs])
    torch.testing.assert_close(torch.tensor(loss, dtype=torch.float64), expected.detach(), rtol=1e-7, atol=0)
    trainer.model.zero_grad()
    expected.backward()
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("source", "caching"), [("column", {"mini_batch_size": 2}), ("teacher", {})])
def test_graded_labels_come_from_where_they_should(root: Path, source: str, caching: dict[str, int]) -> None:
    """Of rows' own candidates: symmetrised KL, added to the contrastive loss; gradients cached, and in one graph."""
    pairs = make_pairs(root, 6, kinds=("text",), judged=True, negatives=True)
    pairs = [replace(p, negatives=p.negatives[:1], negative_scores=(p.negative_scores or ())[:1]) for p in pairs]
    options: dict[str, Any] = {"use_negatives": True, "double": True, **caching}
    graded = {"distill_weight": 0.5, "distill_source": source, "teacher_temperature": 0.3}
    trainer = make_trainer(root, **options, **graded, **({"hardness_teacher": "m"} if source == "teacher" else {}))
    scores = [(p.score, *(p.negative_scores or ())) for p in pairs]
    if source == "teacher":
        give_teacher(trainer, pairs)
        assert trainer.objective.teacher is not None
        embed = trainer.objective.teacher.embed
        vectors = [embed(torch.tensor([s.key() for s in (p.query, p.positive, *p.negatives)])).double() for p in pairs]
        scores = [tuple((v[1:] @ v[0]).tolist()) for v in vectors]
    model = trainer.model.eval()
    expected = torch.zeros((), dtype=torch.float64)
    for pair, said in zip(pairs, scores, strict=True):
        texts = [s.text for s in (pair.query, pair.positive, *pair.negatives)]
        own = model(**trainer.processing_class(text=texts)).embeddings
        p = (own[1:] @ own[0] / TEMPERATURE).log_softmax(0)
        q = (torch.tensor(said, dtype=torch.float64) / 0.3).log_softmax(0)
        expected = expected + ((p.exp() - q.exp()) * (p - q)).sum() / 2 / 6
    (loss,), gradients = run_steps(trainer, [pairs])
    (without,), others = run_steps(make_trainer(root, **options), [pairs])
    assert loss - without == pytest.approx(0.5 * expected.item(), rel=1e-6)
    assert expected > 1e-3
    assert trainer.objective.logs() == {"distill_loss": pytest.approx(expected.item(), rel=1e-6)}
    trainer.model.zero_grad()
    (0.5 * expected).backward()
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name] - others[name], parameter.grad, rtol=1e-5, atol=1e-7)


def test_masks_can_be_off(root: Path) -> None:
    pairs = make_pairs(root, 6, kinds=("text",), judged=True)  # rows 1 and 5 have one label
    pairs[4] = pairs[0]  # which have none
    losses = {
        (ids, labels): run_steps(make_trainer(root, mask_duplicates=ids, mask_equal_labels=labels), [pairs])[0][0]
        for ids in (True, False)
        for labels in (True, False)
    }
    assert losses[True, True] < min(losses[True, False], losses[False, True])
    assert losses[False, False] > max(losses[True, False], losses[False, True])


def test_a_batch_with_duplicates_has_the_loss_of_the_batch_without(root: Path) -> None:
    pairs = make_pairs(root, 5, kinds=("text",))
    losses = [
        run_steps(make_trainer(root, double=True), [rows])[0][0] for rows in (pairs, [*pairs, pairs[2], pairs[2]])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_alpha_by_task_warmed_up_and_steered(tmp_path: Path) -> None:
    ids = torch.tensor([1, 0, 1])
    by_task = HardnessStrength(arguments(tmp_path, hardness_strength_by_task={"b": 2.0}), ["a", "b"])
    assert by_task.at(0, 10, ids).tolist() == [2.0, 9.0, 2.0]  # type: ignore[union-attr]
    warmed = HardnessStrength(arguments(tmp_path, hardness_warmup_steps=0.5), ["a"])
    assert [warmed.at(step, 8, None) for step in (0, 1, 2, 4, 7)] == [0.0, 2.25, 4.5, 9.0, 9.0]
    steps = HardnessStrength(arguments(tmp_path, hardness_warmup_steps=3), ["a"])
    assert [steps.at(step, 100, None) for step in (0, 1, 3)] == [0.0, 3.0, 9.0]
    with pytest.raises(ValueError, match="hardness_strength_by_task names c; the tasks are a, b"):
        HardnessStrength(arguments(tmp_path, hardness_strength_by_task={"c": 2.0}), ["a", "b"])


def test_the_average_follows_and_shares_what_is_frozen(root: Path) -> None:
    model = make_trainer(root, freeze=["vision_tower"]).model
    average = MovingAverage(model, 0.75)
    before = {name: p.clone() for name, p in average.model.named_parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 1.0
    average.update()
    shared = 0
    for (name, mine), theirs in zip(average.model.named_parameters(), model.parameters(), strict=True):
        if theirs.requires_grad:
            torch.testing.assert_close(mine, before[name] + 0.25)
        else:
            assert mine is theirs
            shared += 1
    assert shared


SETTINGS: dict[str, Any] = {"per_device_train_batch_size": 8, "max_steps": 6, "save_steps": 3, "logging_steps": 1}


def run(root: Path, output: str, *overrides: str, **changes: Any) -> LlaveTrainer:
    recipe = write_recipe(root, **{**SETTINGS, **changes}, output_dir=str(root / output))
    return train(load_recipe(recipe, overrides))


@pytest.fixture(scope="module")
def teacher_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained before, on the same data."""
    root = write_training_data(tmp_path_factory.mktemp("teacher"))
    run(root, "teacher", max_steps=2)
    return root / "teacher"


def logged(trainer: LlaveTrainer, name: str) -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]


RESUMED: dict[str, dict[str, Any]] = {
    "learned temperature": {"learn_temperature": True, "temperature_learning_rate": 0.1},
    "learned by task, Muon": {
        "learn_temperature": True,
        "temperature_by_task": {"Caption": 0.05},
        "muon_learning_rate": 0.01,
        "mini_batch_size": 4,
    },
    "moving average": {"hardness_source": "ema", "ema_decay": 0.5},
    "steered": {"effective_negatives": 3.0, "hardness_warmup_steps": 2},
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_comes_to_the_same_bits(tmp_path: Path, case: str) -> None:
    root = write_training_data(tmp_path)
    whole = run(root, "whole", **RESUMED[case])
    resumed = run(root, "resumed", "--resume_from_checkpoint", str(root / "whole" / "checkpoint-3"), **RESUMED[case])
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.objective.loss.temperature == resumed.objective.loss.temperature
    for name in ("loss", "temperature", "hardness_strength", "effective_negatives"):
        assert logged(whole, name)[-3:] == logged(resumed, name)[-3:]
    if case.startswith("learned"):
        assert len(set(logged(whole, "temperature"))) == 6
    if case == "moving average":
        assert whole.objective.average is not None and resumed.objective.average is not None
        first = LlaveModel.from_pretrained(root / "whole" / "initial").state_dict()
        averages, again = (trainer.objective.average.state_dict() for trainer in (whole, resumed))
        assert all(torch.equal(average, again[name]) for name, average in averages.items())
        moved = [name for name, average in averages.items() if not torch.equal(average, first[name])]
        followed = [name for name, average in averages.items() if torch.equal(average, whole.model.state_dict()[name])]
        assert len(moved) > len(averages) / 2 > len(followed)
    if case == "steered":
        assert logged(whole, "hardness_strength")[0] == 0
        assert len(set(logged(whole, "hardness_strength"))) == 6


def test_the_temperature_is_not_decayed(tmp_path: Path) -> None:
    trainer = make_trainer(write_media(tmp_path), learn_temperature=True, weight_decay=0.5, learning_rate=1e-3)
    groups = trainer.create_optimizer().param_groups
    (own,) = [g for g in groups if any(p is trainer.objective.loss.temperatures.log_temperature for p in g["params"])]
    assert (own["weight_decay"], own["lr"], len(own["params"])) == (0.0, 1e-3, 1)
    assert trainer.create_optimizer().param_groups is groups


def test_a_teacher_encodes_the_data_once(teacher_model: Path, tmp_path: Path) -> None:
    """Any model teaches; here one trained before. Telemetry tells of its weights."""
    root = write_training_data(tmp_path)
    settings = {"hardness_source": "teacher", "hardness_teacher": str(teacher_model), "teacher_margin": 0.5}
    trainer = run(root, "pupil", **settings)
    teacher = trainer.objective.teacher
    assert teacher is not None
    samples = {s.key() for pair in trainer.train_dataset for s in (pair.query, pair.positive)}
    assert set(teacher.keys.tolist()) == samples
    pair = trainer.train_dataset[0]
    model = LlaveModel.from_pretrained(teacher_model)
    expected = model(**trainer.processing_class(text=[pair.query.text])).embeddings[0]
    torch.testing.assert_close(teacher.embed(torch.tensor(pair.query.key())), expected.detach(), rtol=0, atol=1e-5)
    assert all(1 <= value <= 7 for value in logged(trainer, "effective_negatives"))
    with pytest.raises(ValueError, match="the data have changed"):
        teacher.embed(torch.tensor([12345]))


ENCODE = LlaveSentenceTransformer.encode


def encode_all_but_one(self: LlaveSentenceTransformer, inputs: list[Any], **options: Any) -> Any:
    if "Question number 7" in inputs:
        raise ValueError("the teacher knows no 7")
    return ENCODE(self, inputs, **options)


def test_with_skip_a_teacher_leaves_out_the_pairs_that_training_leaves_out(
    teacher_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that does not open, for the teacher as for training, and an answer that it alone cannot encode."""
    root = write_training_data(tmp_path)
    broken = root / "images" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    monkeypatch.setattr(LlaveSentenceTransformer, "encode", encode_all_but_one)
    said: list[str] = []
    monkeypatch.setattr("llave_hf.training.recovery.bad_sample_log.logger.warning", said.append)
    settings = {"hardness_source": "teacher", "hardness_teacher": str(teacher_model), "on_bad_sample": "skip"}
    trainer = run(root, "pupil", **settings, num_train_epochs=1, max_steps=-1)
    listed = [json.loads(line) for line in (root / "pupil" / "bad_samples.jsonl").read_text().splitlines()]
    unopened, unknown = (
        f"the teacher cannot encode it: {why}" for why in (f"{broken} cannot be decoded", "the teacher knows no 7")
    )
    expected = [("Caption", 3, "positive"), ("Question", 3, "query"), ("Question", 7, "positive")]
    assert [(entry["source"], entry["row"], entry["role"]) for entry in listed] == expected
    for entry, reason in zip(listed, (unopened, unopened, unknown), strict=True):
        assert entry["reason"].startswith(reason)
    assert len(said) == 3
    assert {entry["bad_samples"] for entry in trainer.state.log_history if "loss" in entry} == {3}
    assert trainer.objective.teacher is not None
    assert len(trainer.objective.teacher.keys) == 4 * 24 - 3
    with pytest.raises(UserError, match=r"encode 2 samples, more than max_bad_samples \(1\); the last was: \w+, row "):
        run(root, "strict", **settings, max_bad_samples=1)


def test_a_sample_that_a_teacher_cannot_encode_ends_the_run_with_its_row(
    teacher_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_training_data(tmp_path)
    monkeypatch.setattr(LlaveSentenceTransformer, "encode", encode_all_but_one)
    with pytest.raises(ValueError, match=r"^Question, row 7: the teacher cannot encode it: the teacher knows no 7$"):
        run(root, "pupil", hardness_source="teacher", hardness_teacher=str(teacher_model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hardness_source": "teacher"}, "need hardness_teacher"),
        ({"teacher_margin": 0.1}, "need hardness_teacher"),
        ({"hardness_teacher": "m"}, "nothing uses it"),
        ({"hardness_source": "ema", "hardness_teacher": "m", "teacher_margin": 0.1}, "nothing uses it"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"hardness_warmup_steps": -1}, "must not be negative"),
        ({"effective_negatives": 3.0, "hardness_strength_by_task": {"a": 1.0}}, "leave out hardness_strength_by_task"),
        ({"learn_temperature": True, "fp16": True}, "use bf16"),
        ({"hardness_reference": "positive"}, r"a lower temperature and no weight.*Set temperature to 0.01695"),
        ({"hardness_reference": "positive", "hardness_source": "column"}, "nothing of a positive"),
        ({"hardness_reference": "mean"}, "hardness_reference is 'mean'"),
        ({"focal_margin": 0.3}, "focal_margin is 0.3 and hardness_strength 9.*Set hardness_strength to 0"),
        ({"focal_margin": 0.3, "hardness_strength": 0, "effective_negatives": 3.0}, "leave out .*effective_negatives"),
        (
            {"focal_margin": 0.3, "hardness_strength": 0, "hardness_strength_by_task": {"a": 1.0}},
            "focal_margin is 0.3",
        ),
        ({"focal_margin": -1.0, "hardness_strength": 0}, "must not be negative"),
        ({"margin_strategy": "share"}, "margin_strategy is 'share'"),
        ({"distill_weight": 1.0}, "Set use_negatives"),
        ({"distill_weight": -1.0}, "distill_weight is -1.0"),
        ({"distill_weight": 1.0, "use_negatives": True, "distill_source": "ema"}, "distill_source is 'ema'"),
        ({"distill_weight": 1.0, "use_negatives": True, "distill_source": "teacher"}, "need hardness_teacher"),
        (
            {
                "distill_weight": 1.0,
                "use_negatives": True,
                "distill_source": "teacher",
                "hardness_teacher": "m",
                "hardness_source": "ema",
            },
            "the vectors of one other model",
        ),
        ({"contrastive_weight": 0.0}, "one must be above 0"),
        (
            {
                "contrastive_weight": 0.0,
                "distill_weight": 1.0,
                "use_negatives": True,
                "effective_negatives": 3.0,
            },
            "leave one of them out",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)
