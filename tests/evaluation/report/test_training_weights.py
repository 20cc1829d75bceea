from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llave_hf.evaluation.report.training_weights import TrainingWeights, training_weights
from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss

RECORD = {"hardness_strength": 5.0, "temperature": 0.1, "max_hardness_weight": 20.0}


def record(folder: Path, **changes: Any) -> str:
    (folder / "training_args.json").write_text(json.dumps(RECORD | changes))
    return str(folder)


def test_settings_are_those_of_the_folder(tmp_path: Path) -> None:
    weights = training_weights(record(tmp_path))
    assert (weights.strength, weights.temperature, weights.max_weight) == (5.0, 0.1, 20.0)
    assert weights.origin == "From training_args.json in the model's folder."
    assert weights.weight(0.4) == pytest.approx(math.exp(2.0))
    assert weights.weight(0.9) == pytest.approx(20.0)


@pytest.mark.parametrize("model", ["org/name", "/nowhere", object()])
def test_without_a_record_the_papers_are_taken_and_said(model: Any) -> None:
    weights = training_weights(model)
    assert (weights.strength, weights.temperature, weights.max_weight) == (9.0, 0.02, None)
    assert "paper" in weights.origin


def test_a_record_of_another_trainer_is_none(tmp_path: Path) -> None:
    (tmp_path / "training_args.json").write_text('{"learning_rate": 1e-5}')
    assert "paper" in training_weights(tmp_path).origin


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hardness_source": "teacher"}, "from 'teacher'"),
        ({"hardness_strength_by_task": {"A": 2}}, "for some tasks"),
        ({"effective_negatives": 8}, "steered"),
        ({"learn_temperature": True}, "was learned"),
        ({"hardness_mode": "hard_negatives"}, "own hard negatives"),
        ({"hardness_reference": "positive"}, "relative to the positive's"),
        ({"focal_margin": 0.3}, "Focal-InfoNCE"),
        ({"distill_weight": 1.0}, "graded labels too"),
    ],
)
def test_what_the_weights_leave_out_is_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in training_weights(record(tmp_path, **changes)).origin


def test_pull_is_the_gradient_of_the_loss() -> None:
    """One query, its positive and three negatives: the loss's gradients at the cosines, as it really computes them."""
    weights = TrainingWeights(strength=9.0, temperature=0.05)
    vectors = torch.nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64, generator=torch.manual_seed(0)))
    query, documents = vectors[:1], vectors[1:].clone()
    loss = HardnessWeightedContrastiveLoss(
        temperature=0.05,
        hardness_strength=9.0,
        hardness_mode="all_negatives",
        directions=("query_to_doc",),
        gather_across_devices=False,
    )
    documents.requires_grad_()
    loss(query, documents[:1], documents[None, 1:]).backward()
    assert documents.grad is not None
    gradients = documents.grad[1:] @ query[0]  # each is its dL/ds times the query, a unit vector
    cosines = (documents[1:] @ query[0]).tolist()
    hardest = max(cosines)
    shares = gradients / gradients[cosines.index(hardest)]
    assert [weights.pull(cosine, hardest) for cosine in cosines] == pytest.approx(shares.tolist(), rel=1e-5)
