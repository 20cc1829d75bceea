"""Samplers of several ranks: what they give, rank beside rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from llave_hf.data import SourceSlice
from llave_hf.data.batches.global_batches import GlobalBatches

T = TypeVar("T")


def task_slices(sizes: list[int], weights: list[float] | None = None) -> list[SourceSlice]:
    """Tasks of so many rows, one after the other."""
    ends = np.cumsum([0, *sizes]).tolist()
    own = zip(ends[:-1], ends[1:], weights or [1.0] * len(sizes), strict=True)
    return [SourceSlice(f"task{number}", *task) for number, task in enumerate(own)]


def batches_of_ranks(
    make: Callable[..., GlobalBatches[list[Any]]], world_size: int, epoch: int = 0
) -> list[list[list[Any]]]:
    """Of each global batch of an epoch, the rows of each rank; `make` takes `rank` and `world_size`."""
    of_ranks = []
    for rank in range(world_size):
        sampler = make(rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        of_ranks.append(list(sampler))
        assert len(of_ranks[-1]) == len(sampler)
    return [list(parts) for parts in zip(*of_ranks, strict=True)]


def joined(parts: Iterable[Iterable[T]]) -> list[T]:
    """The rows of all ranks."""
    return list(chain.from_iterable(parts))
