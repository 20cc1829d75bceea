"""Which rows go into which batch: one task a global batch, the same plan on every rank, nothing to store for a resume.

The plan of an epoch follows from (seed, epoch, rows of each task, size N of the global batch) alone; rank r of W takes
its own `B = N / W` rows of each batch. So 2 ranks of 32 see the batches of 1 rank of 64, and a run that starts again
skips the first n batches of the plan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from .mix import rows_of_shares, swap_repeats_apart
from .ranks import deal_to_ranks
from .repeats import plan_batches, repeating_batches
from .tasks import SourceSlice

logger = logging.getLogger(__name__)

BATCH_TASKS = ("one", "mixed")


class TaskBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches for one rank, as lists of B indices into a `PairDataset`.

    A row is used at most once an epoch. A task is drawn in proportion to its rows times its weight (see
    `sampling_temperature`): the tasks that are drawn most use all their rows each epoch, one of half that weight a
    random half. Rows that fill no global batch are left out of the epoch, others in each.

    With `contents`, no query and no document stands twice in a global batch, over all ranks, as long as it has no more
    rows in a task than the task has batches in an epoch. What has more (two labels in batches of 256) has to repeat:
    such rows fill as few batches as possible, whose repeats the loss masks. Their number is logged; no row is dropped.

    >>> sampler = TaskBatchSampler([SourceSlice("a", 0, 5), SourceSlice("b", 5, 10)], batch_size=2)
    >>> sorted("".join("ab"[index // 5] for index in batch) for batch in sampler)  # one row of each is left out
    ['aa', 'aa', 'bb', 'bb']

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
        contents: `(rows,)` numbers of queries and of documents, see [`PairDataset.contents`]. None: repeats are not
            looked for.
        tokens: `(rows,)` tokens of each row, see [`PairDataset.token_estimates`]: the rows of a global batch are dealt
            to the ranks so that each has about as many tokens. None: they are dealt as they come.

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
        contents: tuple[np.ndarray, np.ndarray] | None = None,
        tokens: np.ndarray | None = None,
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
        self.contents = contents
        self.tokens = tokens
        self._rows_drawn = _rows_drawn(self.sources, sampling_temperature)
        self._rows_of_mix = None if batch_mix is None else self._checked_mix(batch_mix, sampling_temperature)
        if len(self) == 0:
            what = "no task fills" if batch_mix is None else "a task is too small for its share of"
            raise ValueError(
                f"{what} a global batch of {self.global_batch_size} rows ({self._sizes()}); use fewer rows a batch or "
                f"fewer ranks{', or batch_tasks=' + repr('mixed') if batch_mix is None else ''}."
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
        if self._rows_of_mix is not None:
            return min(rows // own for rows, own in zip(self._rows_drawn, self._rows_of_mix, strict=True))
        if self.batch_tasks == "mixed":
            return sum(self._rows_drawn) // size
        return sum(rows // size for rows in self._rows_drawn)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.global_batches()
        if self.rank == 0:
            self._log_repeats(batches)
        if self.tokens is not None:
            batches = deal_to_ranks(batches, self.tokens, self.world_size)
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for batch in batches:
            yield batch[own].tolist()

    def global_batches(self) -> np.ndarray:
        """The plan of the epoch: `(batches, N)` indices, the same on every rank and for every number of ranks."""
        drawn = [
            source.start + np.random.default_rng((self.seed, self.epoch, number)).permutation(len(source))[:rows]
            for number, (source, rows) in enumerate(zip(self.sources, self._rows_drawn, strict=True))
        ]
        order = np.random.default_rng((self.seed, self.epoch, len(drawn)))
        size = self.global_batch_size
        if self._rows_of_mix is not None:
            return self._mixed_by_shares(drawn, self._rows_of_mix, order)
        if self.batch_tasks == "mixed":
            drawn = [order.permutation(np.concatenate(drawn))]
        return order.permutation(np.concatenate([self._batches_of(rows, size, len(rows) // size) for rows in drawn]))

    def _batches_of(self, rows: np.ndarray, size: int, count: int) -> np.ndarray:
        """`(count, size)` of the rows, which are in random order."""
        if self.contents is None:
            return rows[: count * size].reshape(count, size)
        queries, documents = self.contents
        return rows[plan_batches(queries[rows], documents[rows], size, count)]

    def _mixed_by_shares(
        self, drawn: Sequence[np.ndarray], shares: Sequence[int], order: np.random.Generator
    ) -> np.ndarray:
        parts = [
            order.permutation(self._batches_of(rows, own, len(self))) for rows, own in zip(drawn, shares, strict=True)
        ]
        batches = np.concatenate(parts, axis=1)
        if self.contents is None:
            return batches
        ends = np.cumsum([0, *shares]).tolist()
        return swap_repeats_apart(batches, [slice(*ends[i : i + 2]) for i in range(len(shares))], *self.contents)

    def _checked_mix(self, mix: Mapping[str, float], temperature: float) -> list[int]:
        if self.batch_tasks != "mixed":
            raise ValueError(f"batch_mix needs batch_tasks='mixed', not {self.batch_tasks!r}.")
        if temperature != 1 or len({source.weight for source in self.sources}) > 1:
            raise ValueError("batch_mix sets the share of each task; leave out sampling_temperature and weights.")
        return rows_of_shares(mix, [source.name for source in self.sources], self.global_batch_size)

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

    def _log_repeats(self, batches: np.ndarray) -> None:
        if self.contents is None:
            return
        repeats = repeating_batches(batches, *self.contents)
        if repeats.any():
            starts = [source.start for source in self.sources]
            tasks = np.searchsorted(starts, batches[repeats, 0], side="right") - 1
            names = sorted({self.sources[task].name for task in tasks.tolist()})
            logger.warning(
                "%d of %d batches of epoch %d repeat a query or document%s: some have more rows than there are "
                "batches to keep them apart. The loss masks them; smaller batches repeat less.",
                repeats.sum(),
                len(batches),
                self.epoch,
                f" of {', '.join(names)}" if self.batch_tasks == "one" else "",
            )


def _rows_drawn(sources: Sequence[SourceSlice], temperature: float) -> list[int]:
    """Rows of each task that an epoch draws from."""
    # So many times n are in proportion to weight * n ** (1 / T).
    rates = [source.weight * len(source) ** (1 / temperature - 1) if len(source) else 0.0 for source in sources]
    return [int(len(source) * (rate / max(rates))) for source, rate in zip(sources, rates, strict=True)]
