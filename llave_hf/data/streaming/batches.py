"""Batches from data that are not in memory: shards are read in random order, and their rows drawn from a buffer.

Every rank reads the same stream and takes its own rows of each global batch, so ranks need not speak to each other,
and the plan follows from (seed, epoch, data, size N of the global batch) alone, as that of indexed rows does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from llave_hf.data.batches.global_batches import GlobalBatches
from llave_hf.data.batches.groups import deal_groups_to_ranks
from llave_hf.data.batches.ranks import deal_to_ranks
from llave_hf.data.samples import Pair

from .tasks import StreamedPairs, StreamedRow
from .windows import Window, mixed, planned_batches

logger = logging.getLogger(__name__)


class StreamedBatches(GlobalBatches[list[Pair]]):
    """Batches for one rank, as lists of B pairs; see [`GlobalBatches`] for what is drawn.

    It is a batch sampler whose entries are the pairs themselves: it runs in the main process whatever the number of
    workers, which open pictures, and batches that a resumed run passes over are neither collated nor opened.

    The batches of what a buffer holds are planned as those of indexed rows, so that none repeats a query or document.
    Rows that would repeat something wait for the next plan; at the end of a stream, or where the buffer holds too few
    others, they fill as few batches as possible, whose repeats the loss masks. Their number is logged.

    Args:
        pairs: The data.
        batch_size: B.
        buffer_size: Rows of each task that are in memory and shuffled (with `batch_tasks="mixed"` and no `batch_mix`,
            of all tasks together), beside a chunk of each task's open shard; at least N.
        avoid_repeats: Whether batches are planned as above.
        balance_tokens: Whether the rows of a global batch are dealt to the ranks so that each has about as many
            tokens.
        batch_groups: Whether global batches are unions of whole groups, see [`TaskBatchSampler`].
        **settings: See [`GlobalBatches`].

    Raises:
        ValueError: A value is out of its range, or no task fills a global batch.
    """

    def __init__(
        self,
        pairs: StreamedPairs,
        batch_size: int,
        *,
        buffer_size: int = 10_000,
        avoid_repeats: bool = True,
        balance_tokens: bool = False,
        batch_groups: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(pairs.sources, batch_size, groups=pairs.group_sizes() if batch_groups else None, **settings)
        if buffer_size < self.global_batch_size:
            raise ValueError(
                f"stream_buffer_size is {buffer_size}; it must hold a global batch of {self.global_batch_size} rows."
            )
        self.pairs = pairs
        self.buffer_size = buffer_size
        self.avoid_repeats = avoid_repeats
        self.balance_tokens = balance_tokens

    def __iter__(self) -> Iterator[list[Pair]]:
        repeating = 0
        for batch, repeats in self._global_batches():
            repeating += repeats
            yield [row.pair for row in self._dealt(batch)[self.own_rows]]
        if self.rank == 0 and repeating:
            logger.warning(
                "%d of %d batches of epoch %d repeat a query or document: the buffer of %d rows held too few others. "
                "The loss masks them; a larger stream_buffer_size or smaller batches repeat less.",
                repeating,
                len(self),
                self.epoch,
                self.buffer_size,
            )

    def _global_batches(self) -> Iterator[tuple[list[StreamedRow], bool]]:
        """The batches of the epoch, and whether each repeats something."""
        drawn, size = self.rows_drawn, self.global_batch_size
        orders = [np.random.default_rng((self.seed, self.epoch, number)) for number in range(len(drawn))]
        order = np.random.default_rng((self.seed, self.epoch, len(drawn)))
        streams = [
            (task.epoch_of_groups if self.grouped else task.epoch)(own, rows)
            for task, own, rows in zip(self.pairs.tasks, orders, drawn, strict=True)
        ]
        unit = max(self.group_sizes)
        if self.rows_of_mix is not None:
            windows = [
                Window(stream, share, [], unit) for stream, share in zip(streams, self.rows_of_mix, strict=True)
            ]
            yield from self._planned(windows, len(self), order)
        elif self.batch_tasks == "mixed":
            yield from self._planned([Window(mixed(streams, drawn, order, unit), size, [], unit)], len(self), order)
        else:
            left = np.array([rows // size for rows in drawn])
            of_tasks = [
                self._planned([Window(stream, size, [], unit)], int(batches), own)
                for stream, batches, own, unit in zip(streams, left, orders, self.group_sizes, strict=True)
            ]
            while left.any():
                task = int(order.choice(len(left), p=left / left.sum()))
                left[task] -= 1
                yield next(of_tasks[task])

    def _planned(
        self, windows: list[Window], batches: int, order: np.random.Generator
    ) -> Iterator[tuple[list[StreamedRow], bool]]:
        return planned_batches(windows, batches, size=self.buffer_size, order=order, avoid_repeats=self.avoid_repeats)

    def _dealt(self, batch: list[StreamedRow]) -> list[StreamedRow]:
        if not self.balance_tokens:
            return batch
        tokens, places = np.array([row.tokens for row in batch]), np.arange(len(batch))[None]
        if self.split_groups or max(self.group_sizes) == 1:
            return [batch[place] for place in deal_to_ranks(places, tokens, self.world_size)[0]]
        task = [source.name for source in self.sources].index(batch[0].pair.source)
        dealt = deal_groups_to_ranks(places, self.group_sizes[task], tokens, self.world_size)
        return [batch[place] for place in dealt[0]]
