"""Which rows go into which batch: one task a global batch, the same plan on every rank, nothing to store for a resume.

The plan of an epoch follows from (seed, epoch, rows of each task, size N of the global batch) alone; rank r of W takes
its own `B = N / W` rows of each batch. So 2 ranks of 32 see the batches of 1 rank of 64, and a run that starts again
skips the first n batches of the plan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .pairs import SourceSlice

logger = logging.getLogger(__name__)

BATCH_TASKS = ("one", "mixed")


class TaskBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches for one rank, as lists of B indices into a `PairDataset`.

    A row is used at most once an epoch. A task is drawn in proportion to its rows times its weight: the tasks of the
    largest weight use all their rows each epoch, one of half that weight a random half. Rows that fill no global batch
    are left out of the epoch, others in each.

    >>> sampler = TaskBatchSampler([SourceSlice("a", 0, 5), SourceSlice("b", 5, 10)], batch_size=2)
    >>> sorted("".join("ab"[index // 5] for index in batch) for batch in sampler)  # one row of each is left out
    ['aa', 'aa', 'bb', 'bb']

    Args:
        sources: The tasks.
        batch_size: B, rows of one rank in a batch.
        rank, world_size: Which rank this is, of how many (W).
        batch_tasks: `"one"` takes all N = B * W rows of a global batch from one task, `"mixed"` from all at random.
        seed: Of the order.

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
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}; it must be 0 to {world_size - 1}.")
        if batch_tasks not in BATCH_TASKS:
            raise ValueError(f"batch_tasks is {batch_tasks!r}; choose one of {', '.join(map(repr, BATCH_TASKS))}.")
        self.sources = tuple(sources)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.batch_tasks = batch_tasks
        self.seed = seed
        self.epoch = 0
        self._rows_drawn = _rows_drawn(self.sources)
        if len(self) == 0:
            raise ValueError(
                f"no task fills a global batch of {self.global_batch_size} rows ({self._sizes()}); use fewer rows a "
                "batch or fewer ranks, or batch_tasks='mixed'."
            )
        if rank == 0:
            self._log_unused_rows()

    @property
    def global_batch_size(self) -> int:
        """N = B * W."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose plan the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch; the same on every rank and in every epoch."""
        size = self.global_batch_size
        if self.batch_tasks == "mixed":
            return sum(self._rows_drawn) // size
        return sum(rows // size for rows in self._rows_drawn)

    def __iter__(self) -> Iterator[list[int]]:
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for batch in self.global_batches():
            yield batch[own].tolist()

    def global_batches(self) -> np.ndarray:
        """The plan of the epoch: `(batches, N)` indices, the same on every rank.

        Each row is the rows of one global batch, so this is the place to keep repeated queries or documents apart.
        """
        size = self.global_batch_size
        drawn = [
            source.start + np.random.default_rng((self.seed, self.epoch, number)).permutation(len(source))[:rows]
            for number, (source, rows) in enumerate(zip(self.sources, self._rows_drawn, strict=True))
        ]
        order = np.random.default_rng((self.seed, self.epoch, len(drawn)))
        if self.batch_tasks == "mixed":
            rows = order.permutation(np.concatenate(drawn))
            return rows[: len(rows) // size * size].reshape(-1, size)
        return order.permutation(
            np.concatenate([rows[: len(rows) // size * size].reshape(-1, size) for rows in drawn])
        )

    def _sizes(self) -> str:
        drawn = zip(self.sources, self._rows_drawn, strict=True)
        return ", ".join(f"{source.name}: {rows} rows an epoch" for source, rows in drawn)

    def _log_unused_rows(self) -> None:
        unused = sum(map(len, self.sources)) - len(self) * self.global_batch_size
        if unused:
            logger.info("%d rows are left out of each epoch: they fill no global batch, or by weight.", unused)
        for source, rows in zip(self.sources, self._rows_drawn, strict=True):
            if self.batch_tasks == "one" and rows < self.global_batch_size:
                logger.warning(
                    "%s is never used: its %d rows an epoch do not fill a global batch of %d rows.",
                    source.name,
                    rows,
                    self.global_batch_size,
                )


def _rows_drawn(sources: Sequence[SourceSlice]) -> list[int]:
    """Rows of each task that an epoch draws from."""
    largest = max(source.weight for source in sources)
    return [int(len(source) * (source.weight / largest)) for source in sources]
