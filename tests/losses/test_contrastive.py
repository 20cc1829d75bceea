"""The loss against the published values, the dense definition, closed forms and sentence-transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import CASES, TOLERANCE, dense, tensors, unit
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss as Loss


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return tensors()


@pytest.mark.parametrize("tile_size", [3, 1024])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_published_values_and_gradients(
    case: dict[str, Any], tile_size: int, published: dict[str, torch.Tensor]
) -> None:
    """One process on the concatenated batch: the mean over ranks, and the gradient of that mean."""
    key, ranks, tolerance = case["key"], range(case["world_size"]), TOLERANCE[case["dtype"]]
    raw = [published[f"{key}.{name}"].clone().requires_grad_() for name in ("query", "target")]
    loss = Loss(1 / case["logit_scale"], case["alpha"], tile_size=tile_size)(*(F.normalize(x, dim=-1) for x in raw))
    gradients = torch.autograd.grad(loss, raw)
    expected = torch.stack([published[f"{key}.rank{rank}.loss"] for rank in ranks]).mean()
    torch.testing.assert_close(loss, expected, atol=tolerance, rtol=0)
    for name, gradient in zip(("query_grad", "target_grad"), gradients, strict=True):
        summed = torch.cat([published[f"{key}.rank{rank}.{name}"] for rank in ranks])
        torch.testing.assert_close(gradient, summed / len(ranks), atol=tolerance, rtol=0)


def compare(loss: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor], tolerance: float = 1e-10) -> None:
    """Values and gradients."""
    torch.testing.assert_close(loss, expected, atol=tolerance, rtol=0)
    ours = torch.autograd.grad(loss, inputs, allow_unused=True)
    theirs = torch.autograd.grad(expected, inputs, allow_unused=True)
    for one, other, vectors in zip(ours, theirs, inputs, strict=True):
        zeros = torch.zeros_like(vectors)
        torch.testing.assert_close(
            zeros if one is None else one, zeros if other is None else other, atol=tolerance, rtol=0
        )


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 9),
    dim=st.integers(2, 6),
    tile_size=st.integers(1, 10),
    strength=st.sampled_from([0.0, 1.0, 9.0]),
    temperature=st.sampled_from([0.02, 0.05, 1.0, 0.005]),
    directions=st.sampled_from([("query_to_doc",), ("doc_to_query",), ("query_to_doc", "doc_to_query")]),
    kinds=st.integers(1, 9),
    seed=st.integers(0, 10_000),
)
def test_tiles_masks_and_directions_give_the_dense_definition(
    batch: int,
    dim: int,
    tile_size: int,
    strength: float,
    temperature: float,
    directions: tuple[str, ...],
    kinds: int,
    seed: int,
) -> None:
    queries, documents = unit(batch, dim, seed=seed), unit(batch, dim, seed=seed + 1)
    numbers = torch.Generator().manual_seed(seed)
    query_ids, document_ids = (torch.randint(kinds, (batch,), generator=numbers) for _ in range(2))
    masked = (query_ids[:, None] == query_ids) | (document_ids[:, None] == document_ids)
    loss = Loss(temperature, strength, directions=directions, tile_size=tile_size)
    expected = dense(
        queries, documents, temperature=temperature, strength=strength, directions=directions, masked=masked
    )
    found = loss(queries, documents, query_ids=query_ids, document_ids=document_ids)
    compare(found, expected, [queries, documents], tolerance=1e-9)


@pytest.mark.parametrize("mode", ["in_batch_negatives", "hard_negatives", "all_negatives"])
def test_explicit_negatives_belong_to_their_own_query(mode: str) -> None:
    """Missing ones and those that are the row's own document do not count."""
    queries, documents, negatives = unit(5, 4), unit(5, 4, seed=1), unit(5, 3, 4, seed=2)
    present = torch.tensor([[True, True, False]] * 4 + [[False] * 3])
    document_ids, negative_ids = torch.arange(5), torch.arange(100, 115).reshape(5, 3)
    negative_ids[1, 0] = 1
    similarities = torch.einsum("bd,bkd->bk", queries, negatives)
    weights = (0.0 if mode == "in_batch_negatives" else 9.0) * similarities.detach()
    usable = present & (negative_ids != document_ids[:, None])
    own = (similarities / 0.1 + weights).masked_fill(~usable, -torch.inf)
    in_batch = 0.0 if mode == "hard_negatives" else 9.0
    expected = dense(queries, documents, temperature=0.1, strength=in_batch, own=own)
    found = Loss(0.1, 9.0, hardness_mode=mode)(
        queries, documents, negatives, None, document_ids, negative_ids, present
    )
    compare(found, expected, [queries, documents, negatives])
    assert torch.autograd.grad(Loss(0.1, 9.0)(queries, documents, negatives), negatives)[0].abs().max() > 0


def test_equal_vectors_give_log_n_and_strength_0_is_infonce() -> None:
    same = F.normalize(torch.ones(7, 3, dtype=torch.float64), dim=-1)
    assert Loss(hardness_strength=0)(same, same).item() == pytest.approx(math.log(7), abs=1e-12)
    queries, documents = unit(6, 4), unit(6, 4, seed=1)
    labels = torch.arange(6)
    logits = queries @ documents.T / 0.05
    infonce = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    compare(Loss(0.05, 0)(queries, documents), infonce, [queries, documents])


def test_the_weight_is_a_constant_to_the_optimizer() -> None:
    queries, documents = unit(6, 4), unit(6, 4, seed=1)
    logits = queries @ documents.T * (1 / 0.05 + 9) - torch.diag(9 * (queries * documents).sum(1))
    labels = torch.arange(6)
    differentiated = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    loss = Loss(0.05, 9)(queries, documents)
    torch.testing.assert_close(loss, differentiated)
    ours, theirs = (torch.autograd.grad(value, queries)[0] for value in (loss, differentiated))
    assert (ours - theirs).abs().max() > 0.1 * ours.abs().max()


@pytest.mark.parametrize("batch", [1, 4])
def test_without_any_negative_loss_and_gradient_are_zero(batch: int) -> None:
    queries, documents = unit(batch, 3, dtype=torch.float32), unit(batch, 3, seed=1, dtype=torch.float32)
    loss = Loss()(queries, documents, document_ids=torch.zeros(batch, dtype=torch.long))
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [queries, documents]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_planted_duplicate_is_out_of_the_sum() -> None:
    """The batch with a document twice: each of the two rows sees only the other rows as negatives."""
    queries, documents = unit(5, 4), unit(5, 4, seed=1).detach().clone()
    documents[4] = documents[0]
    ids = torch.tensor([0, 1, 2, 3, 0])
    masked = Loss(0.05)(queries, documents, document_ids=ids)
    heavier = Loss(0.05)(queries, documents)
    by_hand = torch.zeros((), dtype=torch.float64)
    weighted = (queries @ documents.T * (1 / 0.05 + 9)).exp()
    positives = ((queries * documents).sum(1) / 0.05).exp()
    for row in range(5):
        others = [j for j in range(5) if ids[j] != ids[row]]
        by_hand += -torch.log(positives[row] / (positives[row] + weighted[row, others].sum())) / 10
        by_hand += -torch.log(positives[row] / (positives[row] + weighted[others, row].sum())) / 10
    torch.testing.assert_close(masked, by_hand)
    assert heavier > masked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_vectors_are_computed_with_in_float32(dtype: torch.dtype) -> None:
    queries, documents = unit(8, 16, dtype=dtype), unit(8, 16, seed=1, dtype=dtype)
    loss = Loss(0.02, 9)(queries, documents)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, Loss(0.02, 9)(queries.float(), documents.float()))
    assert torch.autograd.grad(loss, queries)[0].dtype == dtype


def test_sharp_logits_do_not_overflow() -> None:
    """1/τ + α = 220: exp would be infinite in float32."""
    queries, documents = unit(16, 8, dtype=torch.float32), unit(16, 8, seed=1, dtype=torch.float32)
    loss = Loss(0.005, 20)(queries, documents)
    wide = dense(queries.double(), documents.double(), temperature=0.005, strength=20)
    torch.testing.assert_close(loss.double(), wide, atol=1e-4, rtol=1e-6)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, [queries, documents]))


def test_gradcheck_in_float64() -> None:
    raw = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    loss = Loss(0.5, 0)
    assert torch.autograd.gradcheck(lambda q, d: loss(F.normalize(q, dim=-1), F.normalize(d, dim=-1)), raw)


def test_sentence_transformers_gives_the_same_in_two_calls() -> None:
    """It weights one direction, so the oracle is the mean of two calls with the columns swapped."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    theirs = MultipleNegativesRankingLoss(
        SentenceTransformer(modules=[torch.nn.Identity()]),
        scale=50.0,
        hardness_mode="in_batch_negatives",
        hardness_strength=9.0,
    )
    raw = [2 * unit(6, 8, seed=seed).detach() for seed in (0, 1)]  # theirs normalises: ours is given the same to do
    queries, documents = (vectors.requires_grad_() for vectors in raw)
    pairs = ((queries, documents), (documents, queries))
    expected = torch.stack([theirs.compute_loss_from_embeddings(list(pair), None) for pair in pairs]).mean()
    found = Loss(0.02, 9)(F.normalize(queries, dim=-1), F.normalize(documents, dim=-1))
    compare(found, expected, [queries, documents], tolerance=1e-8)


class _LargestTensor(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_no_tensor_is_as_large_as_all_pairs() -> None:
    queries, documents = unit(1024, 16, dtype=torch.float32), unit(1024, 16, seed=1, dtype=torch.float32)
    with _LargestTensor() as largest:
        Loss(tile_size=128)(queries, documents, document_ids=torch.arange(1024) // 2).backward()
    assert largest.elements <= 128 * 256  # one tile


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"hardness_strength": -1}, "hardness_strength is -1"),
        ({"hardness_mode": "all"}, "hardness_mode is 'all'"),
        ({"directions": ()}, "directions is"),
        ({"directions": ("query_to_doc", "query_to_doc")}, "directions is"),
        ({"tile_size": 0}, "tile_size is 0"),
        ({"temperature": 1e-3}, "overflow"),
    ],
)
def test_impossible_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loss(**arguments)


def test_shapes_and_norms_are_checked() -> None:
    queries = unit(3, 4)
    with pytest.raises(ValueError, match=r"document_embeddings \(2, 4\)"):
        Loss()(queries, unit(2, 4))
    with pytest.raises(ValueError, match=r"negative_embeddings are \(3, 4\)"):
        Loss()(queries, queries, unit(3, 4))
    with pytest.raises(ValueError, match="document_embeddings have norms from 2"):
        Loss()(queries, 2 * queries)
    with pytest.raises(ValueError, match="finite"):
        Loss()(queries, queries * torch.nan)
    assert Loss(temperature=0.02).scale == 50
