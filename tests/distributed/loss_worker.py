"""One rank of the loss's distributed tests, started by forked_ranks.py. Exits non-zero with the first difference."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist  # noqa: TID251  # starts the group that is under test
from torch.nn import functional as F

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]

from loss_features import FEATURES, VECTORS, batch, definition
from loss_reference import CASES, TOLERANCE, dense, tensors, unit

from llave_hf import distributed
from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss


def check_published_cases(rank: int, world: int) -> int:
    """Each rank's own loss, and the gradient of the sum over ranks of the losses."""
    published, count = tensors(), 0
    for case in CASES:
        if case["world_size"] != world:
            continue
        key, tolerance, own = case["key"], TOLERANCE[case["dtype"]], case["per_rank_batch"]
        rows = slice(rank * own, (rank + 1) * own)
        raw = [published[f"{key}.{name}"][rows].clone().requires_grad_() for name in ("query", "target")]
        loss = HardnessWeightedContrastiveLoss(1 / case["logit_scale"], case["alpha"], tile_size=3)(
            *(F.normalize(x, dim=-1) for x in raw)
        )
        loss.backward()
        torch.testing.assert_close(
            loss.detach(), published[f"{key}.rank{rank}.loss"].reshape(()), atol=tolerance, rtol=0
        )
        for name, leaf in zip(("query_grad", "target_grad"), raw, strict=True):
            torch.testing.assert_close(
                leaf.grad, published[f"{key}.rank{rank}.{name}"], atol=tolerance * world, rtol=0
            )
        count += 1
    return count


def check_masks_over_ranks(rank: int, world: int) -> None:
    """Ids are compared over all ranks: the mean over ranks is the dense loss of the whole batch, masked."""
    queries, documents = unit(3 * world, 5), unit(3 * world, 5, seed=1)
    query_ids, document_ids = torch.arange(3 * world) % 4, torch.arange(3 * world) % 5
    masked = (query_ids[:, None] == query_ids) | (document_ids[:, None] == document_ids)
    rows = slice(3 * rank, 3 * rank + 3)
    own = [x.detach()[rows].clone().requires_grad_() for x in (queries, documents)]
    loss = HardnessWeightedContrastiveLoss(0.1, 9, tile_size=2)(
        *own, query_ids=query_ids[rows], document_ids=document_ids[rows]
    )
    loss.backward()
    expected = dense(queries, documents, temperature=0.1, strength=9, masked=masked)
    expected.backward()
    mean = distributed.all_reduce_sum(loss) / world
    torch.testing.assert_close(mean, expected.detach(), atol=1e-10, rtol=0)
    for leaf, whole in zip(own, (queries, documents), strict=True):
        torch.testing.assert_close(leaf.grad / world, whole.grad[rows], atol=1e-10, rtol=0)


def check_features(rank: int, world: int) -> None:
    """Each option: the mean over ranks, gradients of vectors and of temperatures are those of the whole batch."""
    for name, (settings, given) in FEATURES.items():
        whole = batch(5 * world, given)
        rows = slice(5 * rank, 5 * rank + 5)
        part = {key: value.detach()[rows].clone() for key, value in whole.items()}
        leaves = {key: part[key].requires_grad_() for key in VECTORS if key in part}
        loss = HardnessWeightedContrastiveLoss(**settings, tile_size=3, keep_tiles_mib=0.0003)
        value = loss(**part)
        value.backward()
        parameter = loss.temperatures.log_temperature
        temperatures = None if parameter is None else parameter.detach().double().exp().requires_grad_()
        expected = definition(whole, settings, temperatures)
        expected.backward()
        check = {"atol": 1e-9, "rtol": 1e-9, "msg": lambda text, name=name: f"{name}: {text}"}
        torch.testing.assert_close(distributed.all_reduce_sum(value) / world, expected.detach(), **check)
        for key, leaf in leaves.items():
            zero = torch.zeros_like(leaf)
            ours, theirs = (zero if x is None else x for x in (leaf.grad, whole[key].grad))
            theirs = theirs[rows] if len(theirs) > 5 else theirs
            torch.testing.assert_close(ours / world, theirs, **check)
        if parameter is not None:
            by_log = (temperatures.grad * temperatures.detach()).to(parameter.dtype)
            torch.testing.assert_close(parameter.grad, by_log, **{**check, "rtol": 1e-5})


def check_duplicates_and_statistics(rank: int, world: int) -> None:
    """Duplicates are counted, and statistics measured, over the batch of all ranks."""
    queries, documents = unit(6 * world, 5).detach(), unit(6 * world, 5, seed=1).detach()
    ids = torch.arange(6 * world) % (5 * world)
    queries, documents = queries[ids], documents[ids]
    rows = slice(6 * rank, 6 * rank + 6)
    own = [x[rows].clone().requires_grad_() for x in (queries, documents)]
    loss = HardnessWeightedContrastiveLoss(0.1, count_duplicates_once=True, track_effective_negatives=True)
    value = loss(*own, query_ids=ids[rows], document_ids=ids[rows])
    clean = HardnessWeightedContrastiveLoss(0.1, gather_across_devices=False)
    expected = clean(queries[: 5 * world], documents[: 5 * world])
    torch.testing.assert_close(distributed.all_reduce_sum(value) / world, expected, atol=1e-10, rtol=0)
    whole = HardnessWeightedContrastiveLoss(
        0.1, count_duplicates_once=True, track_effective_negatives=True, gather_across_devices=False
    )
    whole(queries.requires_grad_(), documents, query_ids=ids, document_ids=ids)
    for field in ("negatives", "masked_share", "effective_negatives", "hardness_strength"):
        one, other = (getattr(x.statistics, field) for x in (loss, whole))
        assert abs(one - other) <= 1e-9 * abs(other), (field, one, other)


def check_gather(rank: int, world: int) -> None:
    """Rows in rank order; what each rank wants of a row comes back summed."""
    rows = torch.full((2, 3), float(rank), requires_grad=True)
    gathered = distributed.all_gather_with_grad(rows)
    assert gathered[::2, 0].tolist() == list(range(world))
    (gathered * (rank + 1)).sum().backward()
    assert torch.equal(rows.grad, torch.full((2, 3), float(world * (world + 1) // 2)))
    assert torch.equal(distributed.reduce_scatter_sum(gathered.detach()), world * rows.detach())
    assert distributed.all_gather_object({"rank": rank}) == [{"rank": other} for other in range(world)]
    assert (distributed.rank(), distributed.world_size()) == (rank, world)


def check_unequal_batches(rank: int) -> None:
    """An error on every rank, and nobody waits for anybody."""
    try:
        distributed.all_gather(torch.zeros(2 + rank, 3))
    except ValueError as error:
        assert "every rank must bring equal batches" in str(error)
    else:
        raise AssertionError("batches of different size were gathered")


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    count = check_published_cases(rank, world)
    check_masks_over_ranks(rank, world)
    check_features(rank, world)
    check_duplicates_and_statistics(rank, world)
    check_gather(rank, world)
    check_unequal_batches(rank)
    if rank == 0:
        sys.stdout.write(f"world {world}: {count} published cases\n")
    dist.destroy_process_group()
