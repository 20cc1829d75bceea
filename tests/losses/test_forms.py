"""Forms of the loss: what a weight is the same as, weights relative to the positive, Focal-InfoNCE, margins."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from loss_features import FEATURES, VECTORS, batch
from loss_reference import unit
from torch import nn
from torch.nn import functional as F

from llave_hf.losses import contrastive, graded, negatives
from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss as Loss
from llave_hf.losses.hardness import TileWeights
from llave_hf.losses.negatives import margin_limits
from llave_hf.losses.tiles import PairTiles

TAU, ALPHA = 0.02, 9.0
SHARPER = TAU / (1 + ALPHA * TAU)
NEW = ("hardness_reference", "focal_margin", "margin_strategy", "contrastive_weight", "distill_weight")


def both_ways(logits: torch.Tensor) -> torch.Tensor:
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def gradients(loss: torch.Tensor, vectors: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, vectors))


def same(found: list[torch.Tensor], expected: list[torch.Tensor], factor: float = 1.0) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, factor * other, atol=1e-10, rtol=1e-10)


def test_llave_is_infonce_at_a_lower_temperature_with_a_margin_on_the_positive() -> None:
    """τ' = τ/(1 + ατ) for all pairs, less α·sg(s) on the positive; the gradient carries 1/τ and not 1/τ'."""
    vectors = [unit(9, 6), unit(9, 6, seed=1)]
    s = vectors[0] @ vectors[1].T
    infonce = both_ways(s / SHARPER - ALPHA * torch.diag(s.diag().detach()))
    found = Loss(TAU, ALPHA)(*vectors)
    torch.testing.assert_close(found, infonce, atol=1e-10, rtol=0)
    same(gradients(found, vectors), gradients(infonce, vectors), SHARPER / TAU)
    assert pytest.approx(0.01695, abs=5e-6) == SHARPER
    assert pytest.approx(0.153, abs=5e-4) == ALPHA * SHARPER  # of the positive's similarity


def test_a_weight_relative_to_the_positive_is_a_temperature_where_the_model_judges_itself() -> None:
    """Value of InfoNCE at τ' and its gradient times τ'/τ = 50/59. (A cap that never binds lets the setting pass.)"""
    vectors = [unit(9, 6), unit(9, 6, seed=1)]
    infonce = Loss(SHARPER, 0.0)(*vectors)
    found = Loss(TAU, ALPHA, hardness_reference="positive", max_weight=1e30)(*vectors)
    torch.testing.assert_close(found, infonce, atol=1e-10, rtol=0)
    same(gradients(found, vectors), gradients(infonce, vectors), SHARPER / TAU)
    assert pytest.approx(50 / 59) == SHARPER / TAU
    assert abs(Loss(TAU, ALPHA)(*vectors) - infonce) > 0.1  # without the reference it is another


def test_without_strength_there_is_nothing_to_be_relative() -> None:
    inputs = batch(8, ("teacher", "negatives"))
    settings = {"hardness_source": "teacher", "hardness_mode": "all_negatives", "temperature": 0.1}
    plain, relative = (Loss(**settings, hardness_reference=x) for x in ("none", "positive"))
    assert torch.equal(plain(**inputs, hardness_strength=0.0), relative(**inputs, hardness_strength=0.0))
    assert (plain(**inputs) - relative(**inputs)).abs() > 0.1


def test_effective_negatives_are_those_of_capped_relative_weights() -> None:
    inputs = batch(20, ("teacher",))
    settings = {"hardness_source": "teacher", "hardness_reference": "positive", "track_effective_negatives": True}
    capped, free, absolute = (
        Loss(0.1, max_weight=cap, **{**settings, "hardness_reference": reference})
        for cap, reference in ((2.0, "positive"), (None, "positive"), (None, "none"))
    )
    sizes = []
    for loss in (capped, free, absolute):
        loss(**inputs)
        assert loss.statistics is not None
        sizes.append(loss.statistics.effective_negatives)
    h = inputs["teacher_query_embeddings"] @ inputs["teacher_document_embeddings"].T
    w = (9 * (h - h.diag()[:, None])).exp().clamp(max=2.0).masked_fill(torch.eye(20, dtype=torch.bool), 0)
    assert sizes[0] == pytest.approx(((w.sum(1) ** 2) / (w**2).sum(1)).mean().item())
    assert sizes[1] == pytest.approx(sizes[2]) and sizes[0] > 1.2 * sizes[1]  # of a row, a factor is no difference


def test_focal_infonce_by_hand() -> None:
    """s of 0 and 1 alone: positives 1/τ, negatives 0; then s = -m/2, where a negative's logit is lowest."""
    tau, m = 0.5, 0.3
    corner = torch.eye(3, dtype=torch.float64).requires_grad_()
    found = Loss(tau, 0.0, focal_margin=m)(corner, corner.detach().clone())
    assert found.item() == pytest.approx(math.log1p(2 * math.exp(-1 / tau)), abs=1e-12)
    (gradient,) = torch.autograd.grad(found, corner)
    share = 1 / (math.exp(1 / tau) + 2) / 3  # of a negative, of three rows
    assert gradient[0, 0].item() == pytest.approx(-2 * 2 * share / tau, abs=1e-12)  # slope 2s = 2, two negatives
    assert gradient[0, 1].item() == pytest.approx(m * share / tau, abs=1e-12)  # slope 2s + m = m
    s = torch.tensor([[1.0, -m / 2], [-m / 2, 1.0]], dtype=torch.float64)
    pair = torch.linalg.cholesky(s)
    lowest = Loss(tau, 0.0, focal_margin=m)(pair, pair.clone())
    assert lowest.item() == pytest.approx(math.log1p(math.exp(-m * m / (4 * tau) - 1 / tau)), abs=1e-12)


def test_focal_infonce_is_symmetric_and_differentiated() -> None:
    vectors = F.normalize(torch.randn(7, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64), dim=-1)
    one, other = (
        Loss(0.1, 0.0, focal_margin=0.3, directions=(x,))(vectors, vectors) for x in ("query_to_doc", "doc_to_query")
    )
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    raw = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    loss = Loss(0.5, 0, focal_margin=0.3)
    assert torch.autograd.gradcheck(lambda q, d: loss(F.normalize(q, dim=-1), F.normalize(d, dim=-1)), raw)
    assert abs(Loss(0.1, 0, focal_margin=0.0)(vectors, vectors) - Loss(0.1, 0)(vectors, vectors)) > 1e-3


@pytest.mark.parametrize("name", [name for name in FEATURES if name.startswith(("focal", "relative", "graded"))])
def test_float32_is_as_exact_as_it_can_be(name: str) -> None:
    """Values to 1e-5, gradients to 1e-5 of the largest."""
    settings, given = FEATURES[name]
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = batch(64, given, dims=32, dtype=torch.float32)
        inputs = {key: x.detach().to(dtype) if x.is_floating_point() else x for key, x in inputs.items()}
        vectors = [inputs[key].requires_grad_() for key in VECTORS if key in inputs]
        value = Loss(**settings)(**inputs)
        results.append([value.detach(), *torch.autograd.grad(value, vectors, materialize_grads=True)])
    for one, other in zip(*results, strict=True):
        assert one.dtype == torch.float32
        assert (one.double() - other).abs().max() <= 1e-5 * other.abs().max()


class Embeds(nn.Module):
    """A model whose inputs are its vectors."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": features[self.name]}


@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("margin", [-0.4, 0.0, 0.05, 0.5])
def test_margins_are_those_of_sentence_transformers_with_the_other_sign(strategy: str, margin: float) -> None:
    """`GISTEmbedLoss(margin=x)` is `teacher_margin=-x`, for positives below 0 too."""
    from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

    inputs = batch(40, ("teacher",), dims=8)
    vectors = [inputs[name] for name in VECTORS[:2]]
    teacher = [inputs[f"teacher_{name}"] for name in VECTORS[:2]]
    guided = teacher[0] @ teacher[1].T
    assert (guided.diag() < 0).any() and (guided.diag() > 0).any()
    theirs = GISTEmbedLoss.__new__(GISTEmbedLoss)  # its __init__ asks for tokenizers
    nn.Module.__init__(theirs)
    options = {"temperature": 0.1, "margin_strategy": strategy, "margin": margin, "must_retokenize": False}
    options |= {"contrast_anchors": False, "contrast_positives": False, "gather_across_devices": False}
    for name, value in options.items():
        setattr(theirs, name, value)
    theirs.model, theirs.guide = Embeds("own"), Embeds("guide")
    theirs.similarity_fct, theirs.cross_entropy_loss = nn.CosineSimilarity(dim=-1), nn.CrossEntropyLoss()
    expected = theirs([{"own": own, "guide": guide} for own, guide in zip(vectors, teacher, strict=True)], None)
    loss = Loss(0.1, 0.0, teacher_margin=-margin, margin_strategy=strategy, directions=("query_to_doc",))
    torch.testing.assert_close(loss(**inputs), expected, atol=1e-9, rtol=0)
    assert loss.statistics is not None and 0.05 < loss.statistics.masked_share < 0.95


def test_what_ties_with_the_positive_stays_and_a_wide_margin_drops_nothing() -> None:
    twice = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]].requires_grad_()
    for strategy, margin, dropped in (("absolute", 0.0, 0), ("relative", 0.0, 0), ("relative", -0.01, 2)):
        tied = Loss(0.1, false_negative_margin=margin, margin_strategy=strategy)
        tied(twice, twice.detach().clone())
        assert tied.statistics is not None
        assert tied.statistics.masked_share == pytest.approx(dropped / 12)
    queries, documents = unit(6, 4), unit(6, 4, seed=1)
    wide, plain = (Loss(0.1, false_negative_margin=m, margin_strategy="relative") for m in (1e9, None))
    assert torch.equal(wide(queries, documents), plain(queries, documents))
    limits = margin_limits(torch.tensor([0.5, -0.5, 0.0]), -0.1, "relative")
    assert limits.tolist() == pytest.approx([0.45, -0.55, 0.0])


@pytest.mark.parametrize("name", [name for name, (settings, _) in FEATURES.items() if not set(NEW) & set(settings)])
def test_without_the_new_settings_nothing_new_is_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of a new form raises, and the old ones have the bits that they have with neutral settings."""
    settings, given = FEATURES[name]
    inputs = batch(11, (*given, "scores"))
    neutral = {"contrastive_weight": 1.0, "distill_weight": 0.0, "teacher_temperature": 0.1, "focal_margin": None}
    before = run_once(Loss(**settings, **neutral, tile_size=3), inputs)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a new form was run")

    for place, name in ((graded.GradedLabels, "losses"), (PairTiles, "_bend"), (torch.Tensor, "log_softmax")):
        monkeypatch.setattr(place, name, refuse)
    monkeypatch.setattr(contrastive, "gather_ids", refuse)
    monkeypatch.setattr(contrastive, "reference_weights", lambda *arguments: None)
    monkeypatch.setattr(TileWeights, "excess", lambda *arguments: (None, None))
    monkeypatch.setattr(negatives, "margin_limits", lambda positives, margin, strategy: positives + margin)
    after = run_once(Loss(**settings, tile_size=3), {k: v for k, v in inputs.items() if not k.endswith("_scores")})
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def run_once(loss: Loss, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    vectors = [inputs[name] for name in VECTORS if name in inputs]
    value = loss(**inputs)
    return [value.detach(), *torch.autograd.grad(value, vectors, materialize_grads=True)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hardness_reference": "positive"}, r"lower temperature and no weight.*here 0.01695.*times 0.8475"),
        ({"hardness_reference": "positive", "hardness_mode": "all_negatives"}, "Set temperature to 0.01695"),
        ({"hardness_reference": "positive", "hardness_source": "column"}, "nothing of a positive"),
        ({"hardness_reference": "mean"}, "hardness_reference is 'mean'; choose one of 'none', 'positive'"),
        ({"focal_margin": 0.3}, "focal_margin is 0.3 and hardness_strength 9"),
        ({"focal_margin": -0.1, "hardness_strength": 0}, "focal_margin is -0.1"),
        ({"focal_margin": 31.0, "hardness_strength": 0}, "overflow"),
        ({"margin_strategy": "percent"}, "margin_strategy is 'percent'; choose 'absolute' or 'relative'"),
        ({"contrastive_weight": 0.0}, "one must be above 0"),
        ({"contrastive_weight": -1.0, "distill_weight": 2.0}, "neither may be negative"),
        ({"distill_weight": -1.0}, "one must be above 0|must not be negative"),
        ({"distill_weight": 1.0, "distill_source": "self"}, "distill_source is 'self'"),
        ({"distill_weight": 1.0, "teacher_temperature": 0.0}, "teacher_temperature is 0.0"),
    ],
)
def test_impossible_forms_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loss(**settings)


def test_a_strength_of_one_call_does_not_go_with_focal_infonce() -> None:
    with pytest.raises(ValueError, match="Set hardness_strength to 0"):
        Loss(0.1, 0.0, focal_margin=0.3)(unit(3, 4), unit(3, 4, seed=1), hardness_strength=torch.tensor([0.0, 1, 0]))
