"""Batches from sources too large to index: shards are read one after the other and shuffled in a buffer.

Every rank reads the same stream and takes its own rows of each global batch, so ranks need not speak to each other.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .samples import Pair
from .tasks import TaskRows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamedTask:
    """One task whose rows come in chunks.

    Attributes:
        name: Of the task.
        chunks: Opens the stream; the same rows in the same order each time.
        weight: How often it is drawn, beside another task, as long as both last.
    """

    name: str
    chunks: Callable[[], Iterator[TaskRows]]
    weight: float = 1.0


class StreamedBatches(torch.utils.data.IterableDataset[list[Pair]]):
    """Batches of B pairs for one rank, each from one task over all ranks; for a `DataLoader` with `batch_size=None`.

    A global batch takes its N = B * W rows at random from the task's buffer, past rows whose query or document it has:
    they wait for a later batch. Where the buffer holds no others, they are taken and the loss masks the repeat; their
    number is logged. An epoch ends when all tasks have ended; what then fills no batch is left out, and logged.

    Args:
        tasks: The tasks.
        batch_size: B.
        rank, world_size: Which rank this is, of how many (W).
        buffer_size: Rows of each task among which the next is drawn; at least N.
        seed: Of the order.

    Attributes:
        skip_batches: So many batches of the next iteration are passed over, as after a resume.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        tasks: Sequence[StreamedTask],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        buffer_size: int = 10_000,
        seed: int = 0,
    ) -> None:
        if not tasks:
            raise ValueError("StreamedBatches got no task; give one.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}; it must be 0 to {world_size - 1}.")
        if buffer_size < batch_size * world_size:
            raise ValueError(
                f"buffer_size is {buffer_size}; it must hold a global batch of {batch_size * world_size} rows."
            )
        self.tasks = tuple(tasks)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.buffer_size = buffer_size
        self.seed = seed
        self.epoch = 0
        self.skip_batches = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Pair]]:
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError("StreamedBatches is one stream; set dataloader_num_workers to 0 or 1.")
        skipped, self.skip_batches = self.skip_batches, 0
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for batch in itertools.islice(self._global_batches(), skipped, None):
            yield [task.pair(index) for task, index in batch[own]]

    def _global_batches(self) -> Iterator[list[tuple[TaskRows, int]]]:
        order = np.random.default_rng((self.seed, self.epoch))
        buffers = [_Buffer(task, self.buffer_size, order) for task in self.tasks]
        size = self.batch_size * self.world_size
        repeated = left_out = 0
        while buffers:
            weights = np.array([buffer.task.weight for buffer in buffers])
            buffer = buffers[int(order.choice(len(buffers), p=weights / weights.sum()))]
            if buffer.fill() < size:
                buffers.remove(buffer)
                left_out += len(buffer.rows)
                continue
            batch, surplus = buffer.take(size)
            repeated += surplus > 0
            yield batch
        if self.rank == 0 and (repeated or left_out):
            logger.warning(
                "epoch %d: %d batches repeat a query or document, which the loss masks, as the buffer of %d rows held "
                "no others; %d rows filled no batch and were left out.",
                self.epoch,
                repeated,
                self.buffer_size,
                left_out,
            )


class _Buffer:
    """Rows of a task that wait for a batch, with the keys of their contents."""

    def __init__(self, task: StreamedTask, size: int, order: np.random.Generator) -> None:
        self.task = task
        self.rows: list[tuple[TaskRows, int, tuple[int, int]]] = []
        self._stream = ((chunk, index) for chunk in task.chunks() for index in range(len(chunk)))
        self._size = size
        self._order = order

    def fill(self) -> int:
        """Reads on until the buffer is full or the stream ends; rows in it."""
        for chunk, index in itertools.islice(self._stream, self._size - len(self.rows)):
            pair = chunk.pair(index)
            self.rows.append((chunk, index, (pair.query.key(), pair.positive.key())))
        return len(self.rows)

    def take(self, size: int) -> tuple[list[tuple[TaskRows, int]], int]:
        """A batch of `size` rows, and how many of them repeat something."""
        queries: set[int] = set()
        documents: set[int] = set()
        taken: list[int] = []
        passed: list[int] = []
        for place in self._order.permutation(len(self.rows)).tolist():
            query, document = self.rows[place][2]
            if query in queries or document in documents:
                passed.append(place)
                continue
            queries.add(query)
            documents.add(document)
            taken.append(place)
            if len(taken) == size:
                break
        surplus = size - len(taken)
        taken += passed[:surplus]
        batch = [self.rows[place][:2] for place in taken]
        gone = set(taken)
        self.rows = [row for place, row in enumerate(self.rows) if place not in gone]
        return batch, surplus
