"""Masks, hardness sources, temperatures, explicit negatives and truncations against their definition in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_features import FEATURES, VECTORS, batch, definition
from loss_reference import unit

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss as Loss
from llave_hf.losses.effective import EffectiveNegatives
from llave_hf.losses.hardness import HARDNESS_MODES


@pytest.mark.parametrize("tile_size", [3, 1024])
@pytest.mark.parametrize("keep_tiles_mib", [0.0, 0.0005, 16.0])
@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_is_its_definition(name: str, keep_tiles_mib: float, tile_size: int) -> None:
    """Values, gradients of vectors and of temperatures, with all, some and no exponentials kept."""
    settings, given = FEATURES[name]
    inputs = batch(11, given)
    loss = Loss(**settings, tile_size=tile_size, keep_tiles_mib=keep_tiles_mib)
    found = loss(**inputs)
    parameter = loss.temperatures.log_temperature
    temperatures = None if parameter is None else parameter.detach().double().exp().requires_grad_()
    expected = definition(inputs, settings, temperatures)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    vectors = [inputs[vector] for vector in VECTORS if vector in inputs]
    ours = torch.autograd.grad(found, vectors, retain_graph=True, materialize_grads=True)
    theirs = torch.autograd.grad(expected, vectors, retain_graph=True, materialize_grads=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    if parameter is not None:
        assert temperatures is not None
        (by_log,) = torch.autograd.grad(found, parameter)
        (by_tau,) = torch.autograd.grad(expected, temperatures)
        assert by_log.abs().min() > 1e-3
        torch.testing.assert_close(by_log.double(), by_tau * temperatures, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"hardness_source": "teacher"}, {"max_weight": 3.0}, {"share_negatives": True}]
)
def test_the_gradient_of_a_learned_temperature_is_that_of_finite_differences(settings: dict[str, Any]) -> None:
    """α is not differentiated, so the weights of the middle are held while τ moves."""
    inputs = batch(7, ("negatives", "teacher", "document_ids"))
    loss = Loss(0.2, learn_temperature=True, **settings).double()
    assert loss.temperatures.log_temperature is not None
    parameter = loss.temperatures.log_temperature
    (found,) = torch.autograd.grad(loss(**inputs), parameter)
    step = 1e-5
    with torch.no_grad():
        sides = []
        for move in (step, -2 * step):
            parameter += move
            sides.append(loss(**inputs))
    assert found.item() == pytest.approx(((sides[0] - sides[1]) / (2 * step)).item(), abs=1e-8)


def test_a_learned_temperature_stays_within_its_limits_and_can_come_back() -> None:
    loss = Loss(0.02, learn_temperature=True)
    parameter = loss.temperatures.log_temperature
    assert parameter is not None and [p.shape for p in loss.parameters()] == [(1,)]
    parameter.data -= 5
    loss(unit(4, 3), unit(4, 3, seed=1)).backward()
    assert loss.temperature == pytest.approx(0.01)
    assert parameter.grad is not None and parameter.grad.abs() > 0


def test_a_batch_with_planted_duplicates_has_the_loss_of_the_batch_without() -> None:
    """Whole pairs planted again, here and there, with an explicit negative that is a document of the batch."""
    inputs = batch(9, ("negatives",))
    vectors = [inputs[name] for name in VECTORS]
    ids = torch.arange(9)
    negative_ids = torch.arange(100, 127).reshape(9, 3)
    planted = torch.tensor([0, 1, 2, 3, 3, 4, 0, 5, 6, 7, 8, 0])
    for shared in (False, True):
        settings = {"temperature": 0.1, "share_negatives": shared, "hardness_mode": "all_negatives", "tile_size": 4}
        loss, twice = Loss(**settings, count_duplicates_once=True), Loss(**settings)
        batches = [(*vectors, ids, ids, negative_ids)]
        batches.append(tuple(x[planted] for x in batches[0]))
        expected, found = (loss(*tensors) for tensors in batches)
        clean, counted_twice = (twice(*tensors) for tensors in batches)
        torch.testing.assert_close(expected, clean, atol=1e-12, rtol=0)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        assert (counted_twice - found).abs() > 1e-3
        for one, other in zip(*(torch.autograd.grad(x, vectors) for x in (found, expected)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_a_repeated_document_counts_once_for_third_queries() -> None:
    """Two queries with one target: for others it is one negative, in-batch or explicit."""
    queries, documents = unit(5, 4).detach(), unit(5, 4, seed=1).detach().clone()
    documents[4] = documents[0]
    query_ids, document_ids = torch.arange(5), torch.tensor([0, 1, 2, 3, 0])
    settings = {"directions": ("query_to_doc",), "temperature": 0.1}
    once = Loss(**settings, count_duplicates_once=True)(queries, documents, None, query_ids, document_ids)
    weighted = (queries @ documents.T * (10 + 9)).exp()
    positives = ((queries * documents).sum(1) * 10).exp()
    rows = []
    for row in range(5):
        others = [j for j in range(4) if document_ids[j] != document_ids[row]]
        rows.append(-torch.log(positives[row] / (positives[row] + weighted[row, others].sum())))
    torch.testing.assert_close(once, torch.stack(rows).mean())
    explicit = documents[[1, 2, 3, 1, 1]][:, None]  # in the batch already
    again = Loss(**settings, count_duplicates_once=True)(
        queries, documents, explicit, query_ids, document_ids, document_ids[[1, 2, 3, 1, 1]][:, None]
    )
    torch.testing.assert_close(again, once)


def test_autocast_leaves_the_loss_in_float32() -> None:
    queries, documents, negatives = (unit(*s, seed=7, dtype=torch.float32) for s in ((8, 16), (8, 16), (8, 2, 16)))
    for settings in ({"share_negatives": True}, {"keep_tiles_mib": 0}):
        loss = Loss(hardness_mode="all_negatives", **settings)
        expected = loss(queries, documents, negatives)
        gradients = torch.autograd.grad(expected, [queries, negatives])
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(queries, documents, negatives)
        others = torch.autograd.grad(found, [queries, negatives])
        assert torch.equal(found, expected)
        assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))


def test_counts_and_columns_go_with_all_other_settings() -> None:
    """Exponentials in float64 beside vectors in float32; a column that only explicit negatives have."""
    queries, documents, negatives = (unit(*s, seed=7, dtype=torch.float32) for s in ((8, 6), (8, 6), (8, 2, 6)))
    ids = torch.arange(8) // 2
    sharp = Loss(0.012, count_duplicates_once=True)
    value = sharp(queries, documents, None, ids, ids)
    torch.testing.assert_close(
        value.double(), sharp(queries.double(), documents.double(), None, ids, ids), atol=1e-4, rtol=1e-5
    )
    assert all(torch.isfinite(x).all() for x in torch.autograd.grad(value, [queries, documents]))
    column = Loss(hardness_mode="hard_negatives", hardness_source="column")
    heavy, light = (column(queries, documents, negatives, negative_hardness=torch.full((8, 2), h)) for h in (1.0, 0.0))
    assert heavy > light


def test_masks_come_before_weights_and_are_counted() -> None:
    """A masked pair changes nothing, whatever its weight would be; the statistics say how many there are."""
    inputs = batch(10, ("labels", "teacher"))
    inputs["labels"] = torch.tensor([0, 0, 1, 1, 1, -1, -1, 2, 3, 4])
    loss = Loss(0.05, track_effective_negatives=True)
    loss(**inputs)
    assert loss.statistics is not None
    assert loss.statistics.masked_share == pytest.approx((2 + 6) / 90)
    assert loss.statistics.negatives == pytest.approx(82 / 10)
    assert loss.statistics.hardness_strength == 9
    s = (inputs["query_embeddings"] @ inputs["document_embeddings"].T).detach()
    labels = inputs["labels"]
    out = (labels[:, None] == labels) & (labels >= 0) | torch.eye(10, dtype=torch.bool)
    w = (9 * s).exp().masked_fill(out, 0)
    assert loss.statistics.effective_negatives == pytest.approx((w.sum(1) ** 2 / (w**2).sum(1)).mean().item())
    margin = Loss(0.05, false_negative_margin=0.1, directions=("query_to_doc",))
    margin(**{name: inputs[name] for name in VECTORS[:2]})
    assert margin.statistics is not None
    wanted = (s > s.diag()[:, None] + 0.1).sum().item() / 90
    assert wanted > 0.05
    assert margin.statistics.masked_share == pytest.approx(wanted)


@pytest.mark.parametrize("tile_size", [7, 1024])
@pytest.mark.parametrize("margin", [None, 0.3])
def test_few_repeats_are_found_without_comparing_all(tile_size: int, margin: float | None) -> None:
    """Repeated queries, documents and labels in several tiles, some of them the same pair."""
    inputs = batch(40, ("query_ids", "document_ids", "labels"))
    for name in ("query_ids", "document_ids"):
        inputs[name] = torch.arange(40)
    inputs["labels"] = torch.full((40,), -1)
    inputs["query_ids"][[3, 30]], inputs["document_ids"][[3, 30, 31]], inputs["labels"][[3, 5, 39]] = 77, 88, 2
    loss = Loss(0.1, tile_size=tile_size, false_negative_margin=margin, track_effective_negatives=True)
    found = loss(**inputs)
    expected = definition(inputs, {"temperature": 0.1, "false_negative_margin": margin})
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    vectors = [inputs[name] for name in VECTORS[:2]]
    for one, other in zip(*(torch.autograd.grad(x, vectors) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    assert loss.statistics is not None
    share = loss.statistics.masked_share * 40 * 39
    assert share == pytest.approx(12) if margin is None else share > 20


def test_the_strength_is_steered_to_a_number_of_effective_negatives() -> None:
    queries, documents = unit(400, 16).detach(), unit(400, 16, seed=1).detach()
    loss = Loss(track_effective_negatives=True)
    controller = EffectiveNegatives(target=60, strength=1.0, rate=0.5)
    for _ in range(25):
        loss(queries.requires_grad_(), documents, hardness_strength=controller.strength)
        assert loss.statistics is not None
        controller.update(loss.statistics)
    assert loss.statistics is not None and loss.statistics.effective_negatives == pytest.approx(60, rel=0.02)
    other = EffectiveNegatives(target=60, rate=0.5)
    other.load_state_dict(controller.state_dict())
    assert other.update(loss.statistics) == controller.update(loss.statistics)
    plain = Loss()
    plain(queries, documents)
    with pytest.raises(ValueError, match="track_effective_negatives"):
        controller.update(plain.statistics)


def test_the_loss_of_sentence_transformers_with_shared_negatives() -> None:
    """One direction, each mode: its columns are the documents and then each k-th negative."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    vectors = [batch(6, ("negatives",), dims=8)[name] for name in VECTORS]
    for mode in HARDNESS_MODES:
        theirs = MultipleNegativesRankingLoss(
            SentenceTransformer(modules=[torch.nn.Identity()]), scale=10.0, hardness_mode=mode, hardness_strength=4.0
        )
        expected = theirs.compute_loss_from_embeddings([*vectors[:2], *vectors[2].unbind(1)], None)
        ours = Loss(0.1, 4.0, hardness_mode=mode, directions=("query_to_doc",), share_negatives=True)
        torch.testing.assert_close(ours(*vectors), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"hardness_source": "teacher"}, {}, "the teacher's vectors are missing"),
        ({"hardness_source": "ema"}, {}, "the ema's vectors are missing"),
        ({"teacher_margin": 0.1}, {}, "the teacher's vectors are missing"),
        ({"hardness_source": "column"}, {}, "give document_hardness"),
        ({"hardness_source": "column"}, {"document_hardness": torch.full((3,), 99.0)}, "overflow"),
        ({"count_duplicates_once": True}, {}, "needs query_ids and document_ids"),
        ({"temperature": (0.02, 0.03)}, {}, "give task_ids"),
        ({"temperature": (0.02, 0.03)}, {"task_ids": torch.tensor([0, 1, 2])}, "task_ids run from 0 to 2"),
        ({}, {"labels": torch.zeros(2)}, r"labels has shape \(2,\)"),
        ({}, {"hardness_strength": -1.0}, "hardness_strength is -1"),
        ({}, {"hardness_strength": torch.ones(2)}, r"hardness_strength has shape \(2,\)"),
        ({"matryoshka_dims": (8,)}, {}, "matryoshka_dims has 8"),
    ],
)
def test_what_is_missing_is_named(settings: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loss(**settings)(unit(3, 4), unit(3, 4, seed=1), **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hardness_source": "reward"}, "hardness_source is 'reward'"),
        ({"max_weight": 0}, "max_weight is 0"),
        ({"keep_tiles_mib": -1}, "keep_tiles_mib is -1"),
        ({"temperature": 2.0, "learn_temperature": True}, "starts within"),
        ({"matryoshka_dims": (4, 4)}, "matryoshka_dims is"),
        ({"matryoshka_dims": (4,), "matryoshka_weights": (1, 2)}, "2 matryoshka_weights"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loss(**settings)
