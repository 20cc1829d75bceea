"""The ranks of a run: the only file that speaks to torch.distributed.

On one process every function is the identity, so that the code above it has one form.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist  # noqa: TID251  # the one place for it


def backends() -> list[str]:
    """The names of the backends that this build of torch can start ranks with."""
    if not dist.is_available():
        return []
    there = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available, "mpi": dist.is_mpi_available}
    return [name for name, is_available in there.items() if is_available()]


def is_initialized() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """W, the number of processes."""
    return dist.get_world_size() if is_initialized() else 1


def barrier() -> None:
    """Waits until every rank is here."""
    if is_initialized():
        dist.barrier()


def all_gather_object(value: Any) -> list[Any]:
    """The (picklable) values of all ranks, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """`(B, ...)` on each rank -> `(W * B, ...)` in rank order on every rank, without gradient.

    Raises:
        ValueError: The ranks bring tensors of different shapes.
    """
    if world_size() == 1:
        return tensor.detach()
    _check_shapes(tensor)
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, as a new tensor, without gradient."""
    summed = tensor.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.all_reduce(summed)
    return summed


@torch.no_grad()
def reduce_scatter_sum(tensor: torch.Tensor) -> torch.Tensor:
    """`(W * B, ...)` on each rank -> this rank's `(B, ...)` rows of the sum over ranks, without gradient.

    gloo has no reduce-scatter before torch 2.12: there the whole is summed and cut.
    """
    world = world_size()
    if world == 1:
        return tensor.detach()
    rows = tensor.shape[0] // world
    if dist.get_backend() == "gloo":
        return all_reduce_sum(tensor)[rank() * rows : (rank() + 1) * rows].clone()
    part = torch.empty_like(tensor[:rows])
    dist.reduce_scatter_tensor(part, tensor.contiguous())
    return part


def whole_like(share: torch.Tensor, like: Any) -> torch.Tensor:
    """The whole of which each rank holds a share, spread as the DTensor `like` is."""
    from torch.distributed.tensor import DTensor  # noqa: TID251  # takes a second, which encoding need not wait for

    spread = DTensor.from_local(share, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return spread.full_tensor()


def share_like(whole: torch.Tensor, like: Any) -> torch.Tensor:
    """This rank's share of what all ranks hold whole, spread as the DTensor `like` is."""
    from torch.distributed.tensor import distribute_tensor  # noqa: TID251

    spread: Any = distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    return spread.to_local()


class _AllGatherWithGrad(torch.autograd.Function):
    """Gathers forward; backward, what every rank wants of this rank's rows is summed."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return all_gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return reduce_scatter_sum(gradient)


def all_gather_with_grad(tensor: torch.Tensor) -> torch.Tensor:
    """`(B, ...)` -> `(W * B, ...)` in rank order; gradients flow back to the rank that a row came from.

    The gradient that a rank gets is that of the *sum* of the ranks' losses. Averaged by DDP it is the gradient of
    the mean, with no factor of the world size anywhere (proved in tests/distributed).
    """
    return tensor if world_size() == 1 else _AllGatherWithGrad.apply(tensor)


def _check_shapes(tensor: torch.Tensor) -> None:
    """Without it, ranks with different batches would hang or mix up rows."""
    shape = torch.tensor(tensor.shape, device=tensor.device)
    largest, smallest = shape.clone(), shape.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    if not torch.equal(largest, smallest):
        raise ValueError(
            f"rank {rank()} gathers a tensor of shape {tuple(tensor.shape)}, other ranks from {smallest.tolist()} to "
            f"{largest.tolist()}; every rank must bring equal batches: set dataloader_drop_last=True."
        )
