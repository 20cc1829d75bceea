"""The base of both batch samplers, of indexed and of streamed rows: batch sizes, ranks' shares, epochs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from llave_hf.data.rows.tasks import SourceSlice

from .mix import rows_of_shares

logger = logging.getLogger(__name__)

BATCH_TASKS = ("one", "mixed")

Batch = TypeVar("Batch", covariant=True)


class GlobalBatches(torch.utils.data.Sampler[Batch]):
    """How many batches an epoch has, and from how many rows of each task.

    A row is used at most once an epoch. A task is drawn in proportion to its rows times its weight (see
    `sampling_temperature`): the tasks that are drawn most use all their rows each epoch, one of half that weight a
    random half. Rows that fill no global batch are left out of the epoch, others in each.

    Args:
        sources: The tasks.
        batch_size: B, rows of one rank in a batch.
        rank, world_size: Which rank this is, of how many (W).
        batch_tasks: `"one"` takes all N = B * W rows of a global batch from one task, `"mixed"` from all at random.
        seed: Of the order.
        batch_mix: With `"mixed"`, the share of each task in every global batch, by name; an epoch ends when the first
            task has no rows left. None: as it comes.
        sampling_temperature: T of `n ** (1 / T)`, which stands in for the n rows of a task when tasks are drawn: 1 as
            they are, above 1 more evenly, infinity equally. The weights of the tasks multiply it.
        groups: Of each task, how many groups it has and how many rows a group: a global batch is a union of whole
            groups, and rows in none are never drawn. None: rows are drawn one by one.
        split_groups: Whether a group may lie on several ranks: not where a query sees its own rank's documents only.

    Attributes:
        epoch: Whose order the next iteration follows.
        rows_drawn: Rows of each task that an epoch draws from.
        rows_of_mix: Rows of each task in a global batch, with `batch_mix`.

    Raises:
        ValueError: A value is out of its range, or no task fills a global batch.
    """

    def __init__(
        self,
        sources: Sequence[SourceSlice],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        batch_tasks: str = "one",
        seed: int = 0,
        batch_mix: Mapping[str, float] | None = None,
        sampling_temperature: float = 1.0,
        groups: Sequence[tuple[int, int]] | None = None,
        split_groups: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}; it must be 0 to {world_size - 1}.")
        if batch_tasks not in BATCH_TASKS:
            raise ValueError(f"batch_tasks is {batch_tasks!r}; choose one of {', '.join(map(repr, BATCH_TASKS))}.")
        if not sampling_temperature > 0:
            raise ValueError(f"sampling_temperature is {sampling_temperature}; it must be above 0.")
        self.sources = tuple(sources)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.batch_tasks = batch_tasks
        self.seed = seed
        self.epoch = 0
        self.split_groups = split_groups
        self.grouped = groups is not None
        self.group_sizes = [1] * len(self.sources) if groups is None else [size for _, size in groups]
        sizes = [len(source) for source in self.sources] if groups is None else [many * own for many, own in groups]
        self.rows_drawn = [
            rows // own * own
            for rows, own in zip(_rows_drawn(self.sources, sizes, sampling_temperature), self.group_sizes, strict=True)
        ]
        self._check_groups()
        self.rows_of_mix = None if batch_mix is None else self._checked_mix(batch_mix, sampling_temperature)
        if len(self) == 0:
            what = "no task fills" if batch_mix is None else "a task is too small for its share of"
            raise ValueError(
                f"{what} a global batch of {self.global_batch_size} rows ({self._sizes()}); use fewer rows a batch or "
                f"fewer ranks{', or batch_tasks=' + repr('mixed') if batch_mix is None else ''}."
                f"{' Rows in no group do not count.' if self.grouped else ''}"
            )
        if rank == 0:
            self._log_unused_rows()

    @property
    def global_batch_size(self) -> int:
        """N = B * W."""
        return self.batch_size * self.world_size

    @property
    def own_rows(self) -> slice:
        """Where this rank's rows stand in a global batch."""
        return slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch; the same on every rank and in every epoch."""
        size = self.global_batch_size
        if self.rows_of_mix is not None:
            return min(rows // own for rows, own in zip(self.rows_drawn, self.rows_of_mix, strict=True))
        if self.batch_tasks == "mixed":
            return sum(self.rows_drawn) // size
        return sum(rows // size for rows in self.rows_drawn)

    def _checked_mix(self, mix: Mapping[str, float], temperature: float) -> list[int]:
        if self.batch_tasks != "mixed":
            raise ValueError(f"batch_mix needs batch_tasks='mixed', not {self.batch_tasks!r}.")
        if temperature != 1 or len({source.weight for source in self.sources}) > 1:
            raise ValueError("batch_mix sets the share of each task; leave out sampling_temperature and weights.")
        size = max(self.group_sizes)
        groups = rows_of_shares(mix, [source.name for source in self.sources], self.global_batch_size // size, size)
        return [own * size for own in groups]

    def _check_groups(self) -> None:
        share = self.global_batch_size if self.split_groups else self.batch_size
        used = {
            source.name: size
            for source, size, rows in zip(self.sources, self.group_sizes, self.rows_drawn, strict=True)
            if rows
        }
        if self.batch_tasks == "mixed" and len(set(used.values())) > 1:
            sizes = ", ".join(f"{name}: {size}" for name, size in used.items())
            raise ValueError(
                f"batches of mixed tasks need groups of one size, and these have rows a group: {sizes}; write them "
                "with one --group_size, or set batch_tasks: one."
            )
        for name, size in used.items():
            if share % size:
                whose = "a global batch" if self.split_groups else "a rank (it sees no other rank's documents)"
                raise ValueError(
                    f"{whose} has {share} rows, which is no union of {name}'s groups of {size}; use a multiple of "
                    f"{size}, or groups of another --group_size."
                )

    def _sizes(self) -> str:
        drawn = zip(self.sources, self.rows_drawn, strict=True)
        return ", ".join(f"{source.name}: {rows} rows an epoch" for source, rows in drawn)

    def _log_unused_rows(self) -> None:
        unused = sum(map(len, self.sources)) - len(self) * self.global_batch_size
        if unused:
            why = "they fill no global batch, stand in no group" if self.grouped else "they fill no global batch"
            logger.info("%d rows are left out of each epoch: %s, or by weight.", unused, why)
        for source, rows in zip(self.sources, self.rows_drawn, strict=True):
            if self.batch_tasks == "one" and rows < self.global_batch_size:
                logger.warning(
                    "%s is never used: its %d rows an epoch do not fill a global batch of %d rows.",
                    source.name,
                    rows,
                    self.global_batch_size,
                )


def _rows_drawn(sources: Sequence[SourceSlice], sizes: Sequence[int], temperature: float) -> list[int]:
    # So many times n are in proportion to weight * n ** (1 / T).
    rates = [
        source.weight * size ** (1 / temperature - 1) if size else 0.0
        for source, size in zip(sources, sizes, strict=True)
    ]
    return [int(size * (rate / (max(rates) or 1.0))) for size, rate in zip(sizes, rates, strict=True)]
