"""Graded labels: symmetrised KL over a row's own candidates, against its gradient on paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_features import VECTORS, batch, symmetrised_kl
from loss_reference import unit
from torch.nn import functional as F

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss as Loss
from llave_hf.losses.graded import GradedLabels
from llave_hf.losses.inputs import PairInputs

ALONE = {"contrastive_weight": 0.0, "distill_weight": 1.0}


def candidates(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """s `(B, 1 + K)` of each row's own candidates, the positive first."""
    queries, documents, negatives = (inputs[name] for name in VECTORS)
    own = (queries * documents).sum(1, keepdim=True)
    return torch.cat((own, torch.einsum("bd,bkd->bk", queries, negatives)), 1)


def graded_batch(rows: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every row with all of its three negatives."""
    inputs = batch(rows, ("negatives", "scores"), seed=seed)
    del inputs["negative_mask"]
    return inputs


def test_it_is_zero_where_all_gaps_agree_and_nowhere_else() -> None:
    inputs = graded_batch()
    s = candidates(inputs).detach()
    shift = torch.linspace(-3, 3, len(s), dtype=torch.float64)  # a row's grades may all lie higher
    inputs["positive_scores"], inputs["negative_scores"] = s[:, 0] + shift, s[:, 1:] + shift[:, None]
    loss = Loss(0.1, **ALONE)(**inputs)
    assert abs(loss.item()) < 1e-12
    assert all(x.abs().max() < 1e-10 for x in torch.autograd.grad(loss, [inputs[name] for name in VECTORS]))
    wider = {**inputs, **{name: 2 * inputs[name] for name in ("positive_scores", "negative_scores")}}
    assert abs(Loss(0.1, **ALONE, teacher_temperature=0.2)(**wider).item()) < 1e-12
    for place in range(6):
        moved = {**inputs, "negative_scores": inputs["negative_scores"].clone()}
        moved["negative_scores"][place, 1] += 0.5
        assert Loss(0.1, **ALONE)(**moved) > 1e-6


def test_the_gradient_is_that_on_paper() -> None:
    """dL_i/ds_c = [P_c (log(P_c/Q_c) - KL(P‖Q)) + P_c - Q_c] / 2τ."""
    tau, inputs = 0.07, graded_batch()
    s = candidates(inputs).detach().requires_grad_()
    scores = torch.cat((inputs["positive_scores"][:, None], inputs["negative_scores"]), 1)
    p, q = (s / tau).softmax(1), (scores / tau).softmax(1)
    kl = (p * (p / q).log()).sum(1, keepdim=True)
    on_paper = (p * ((p / q).log() - kl) + p - q) / (2 * tau) / len(s)
    loss = Loss(tau, **ALONE)(**inputs)
    vectors = [inputs[name] for name in VECTORS]
    by_candidates = torch.autograd.grad(candidates(inputs), vectors, on_paper.detach())
    for one, other in zip(torch.autograd.grad(loss, vectors), by_candidates, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)


def test_a_judge_that_is_sure_gives_cross_entropy_over_own_candidates() -> None:
    """Of the two divergences KL(Q‖P); the other one grows without bound and says the same."""
    inputs, tau = graded_batch(), 0.1
    inputs["positive_scores"] = torch.ones(6, dtype=torch.float64)
    inputs["negative_scores"] = torch.zeros(6, 3, dtype=torch.float64)
    student = candidates(inputs) / tau
    twice = 2 * Loss(tau, **ALONE, teacher_temperature=0.02)(**inputs)
    p, q = student.softmax(1), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64) / 0.02
    other_way = (p * (p.log() - q.log_softmax(0))).sum(1).mean()
    entropy = F.cross_entropy(student, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(twice - other_way, entropy, atol=1e-12, rtol=0)


def test_the_order_of_negatives_and_what_is_masked_change_nothing() -> None:
    inputs = graded_batch()
    expected = Loss(0.1, **ALONE)(**inputs)
    order = torch.tensor([2, 0, 1])
    turned = {**inputs, **{name: inputs[name][:, order] for name in ("negative_embeddings", "negative_scores")}}
    torch.testing.assert_close(Loss(0.1, **ALONE)(**turned), expected, atol=1e-13, rtol=0)
    wider = dict(inputs)
    wider["negative_embeddings"] = torch.cat((inputs["negative_embeddings"], unit(6, 2, 6, seed=9)), 1).detach()
    wider["negative_scores"] = F.pad(inputs["negative_scores"], (0, 2), value=5.0)
    wider["negative_mask"] = torch.tensor([[True] * 3 + [False] * 2] * 6)
    torch.testing.assert_close(Loss(0.1, **ALONE)(**wider), expected, atol=1e-13, rtol=0)
    del wider["negative_mask"]
    assert (Loss(0.1, **ALONE)(**wider) - expected).abs() > 1e-2


def test_rows_without_negatives_and_repeated_ones_add_nothing() -> None:
    inputs = graded_batch()
    whole = Loss(0.1, **ALONE)(**inputs)
    half = {**inputs, "negative_mask": torch.tensor([[True] * 3] * 3 + [[False] * 3] * 3)}
    first = {name: x[:3] for name, x in inputs.items()}
    torch.testing.assert_close(Loss(0.1, **ALONE)(**half), Loss(0.1, **ALONE)(**first) / 2)
    none = {name: inputs[name] for name in VECTORS[:2]}
    loss = Loss(0.1, **ALONE)(**none)
    assert loss.item() == 0
    assert not any(x.any() for x in torch.autograd.grad(loss, [none[name] for name in VECTORS[:2]]))
    learned = Loss(0.1, **ALONE, learn_temperature=True)
    learned(**none).backward()  # a rank without negatives takes part in the exchange of the temperature's gradient
    assert learned.temperatures.log_temperature is not None
    assert (
        learned.temperatures.log_temperature.grad is not None and not learned.temperatures.log_temperature.grad.any()
    )
    ids = {"query_ids": torch.arange(6), "document_ids": torch.arange(6)}
    again = {**inputs, **ids, "negative_ids": torch.arange(100, 118).reshape(6, 3)}
    again["negative_ids"][:, 2] = again["negative_ids"][:, 0]
    again["negative_embeddings"] = inputs["negative_embeddings"].detach()[:, [0, 1, 0]]
    again["negative_scores"] = inputs["negative_scores"][:, [0, 1, 0]]
    once = {**inputs, "negative_embeddings": inputs["negative_embeddings"][:, :2]}
    once["negative_scores"] = inputs["negative_scores"][:, :2]
    counted = Loss(0.1, **ALONE, count_duplicates_once=True)(**again)
    torch.testing.assert_close(counted, Loss(0.1, **ALONE)(**once), atol=1e-13, rtol=0)
    assert (Loss(0.1, **ALONE)(**again) - counted).abs() > 1e-3
    planted = torch.tensor([0, 1, 2, 3, 4, 5, 5, 2])  # pairs that stand twice share one place in the mean
    repeated = {name: x[planted] for name, x in {**inputs, **ids}.items()}
    torch.testing.assert_close(Loss(0.1, **ALONE, count_duplicates_once=True)(**repeated), whole, atol=1e-13, rtol=0)


def test_without_its_weight_todays_loss_is_left_to_the_bit() -> None:
    inputs = graded_batch()
    plain = {name: x for name, x in inputs.items() if not name.endswith("scores")}
    vectors = [inputs[name] for name in VECTORS]
    results = [(value, *torch.autograd.grad(value, vectors)) for value in (Loss(0.1)(**inputs), Loss(0.1)(**plain))]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    both = Loss(0.1, distill_weight=0.25)
    value = both(**inputs)
    assert both.distilled is not None and both.statistics is not None
    torch.testing.assert_close(value, results[0][0] + 0.25 * both.distilled, atol=1e-13, rtol=0)


def test_sharp_grades_neither_overflow_nor_vanish() -> None:
    """τ of 0.005 on grades of 0 and 1, in float32: log-probabilities of -200."""
    inputs = {name: x.detach().float() for name, x in graded_batch().items()}
    for name in VECTORS:
        inputs[name].requires_grad_()
    loss = Loss(0.1, **ALONE, teacher_temperature=0.005)(**inputs)
    s = candidates({name: inputs[name].detach().double() for name in VECTORS})
    scores = torch.cat((inputs["positive_scores"][:, None], inputs["negative_scores"]), 1).double()
    p, q = (s / 0.1).log_softmax(1), (scores / 0.005).log_softmax(1)
    expected = ((p.exp() - q.exp()) * (p - q)).sum(1).mean() / 2
    torch.testing.assert_close(loss.double(), expected, atol=0, rtol=1e-5)
    gradients = torch.autograd.grad(loss, [inputs[name] for name in VECTORS])
    assert all(torch.isfinite(x).all() and x.abs().max() > 1e-3 for x in gradients)
    assert not torch.isfinite(symmetrised_kl(s[0] / 0.1, scores[0] / 1e-4))  # what log(softmax) gives


@pytest.mark.parametrize("planted", ["one way only", "no temperature of its own", "sign turned", "mask forgotten"])
def test_planted_mistakes_are_seen(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would pass for a loss of graded labels."""
    inputs = batch(6, ("negatives", "scores"))
    expected = definition_of(inputs)
    torch.testing.assert_close(Loss(0.1, **ALONE, teacher_temperature=0.3)(**inputs), expected)
    losses = GradedLabels.losses

    def one_way(self: GradedLabels, given: PairInputs, *rest: torch.Tensor) -> torch.Tensor:
        s = candidates({name: inputs[name] for name in VECTORS}) * 10
        p, q = s.log_softmax(1), torch.cat((given.positive_scores[:, None], given.negative_scores), 1).log_softmax(1)
        return (p.exp() * (p - q)).sum(1)

    def sharp(self: GradedLabels, given: PairInputs, *rest: torch.Tensor) -> torch.Tensor:
        return losses(GradedLabels(1.0), given, *rest)

    def turned(self: GradedLabels, given: PairInputs, *rest: torch.Tensor) -> torch.Tensor:
        flipped = {**vars(given), "positive_scores": -given.positive_scores, "negative_scores": -given.negative_scores}
        return losses(self, PairInputs(**flipped), *rest)

    def unmasked(self: GradedLabels, given: PairInputs, *rest: torch.Tensor) -> torch.Tensor:
        return losses(self, PairInputs(**{**vars(given), "negative_mask": None}), *rest)

    wrong = {"one way only": one_way, "no temperature of its own": sharp, "sign turned": turned}
    monkeypatch.setattr(GradedLabels, "losses", wrong.get(planted, unmasked))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(Loss(0.1, **ALONE, teacher_temperature=0.3)(**inputs), expected)


def definition_of(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    s, rows = candidates(inputs), []
    scores = torch.cat((inputs["positive_scores"][:, None], inputs["negative_scores"]), 1)
    for row in range(len(s)):
        kept = torch.cat((torch.tensor([True]), inputs["negative_mask"][row]))
        rows.append(symmetrised_kl(s[row, kept] / 0.1, scores[row, kept] / 0.3))
    return torch.stack(rows).mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive_scores": None}, r"give positive_scores \(B,\) and negative_scores"),
        ({"negative_scores": torch.zeros(6, 2)}, r"negative_scores has shape \(6, 2\)"),
        ({"positive_scores": torch.zeros(5)}, r"positive_scores has shape \(5,\)"),
    ],
)
def test_missing_grades_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loss(0.1, **ALONE)(**{**graded_batch(), **changes})
    with pytest.raises(ValueError, match="the teacher's vectors are missing"):
        Loss(0.1, **ALONE, distill_source="teacher")(**graded_batch())
