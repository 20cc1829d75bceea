"""Which rows go into which batch: one task a global batch, the same plan on every rank, nothing to store for a resume.

The plan of an epoch follows from (seed, epoch, rows of each task, size N of the global batch) alone; rank r of W takes
its own `B = N / W` rows of each batch. So 2 ranks of 32 see the batches of 1 rank of 64, and a run that starts again
skips the first n batches of the plan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llave_hf.data.rows.groups import sizes_of_groups
from llave_hf.data.rows.tasks import SourceSlice

from .global_batches import GlobalBatches
from .groups import deal_groups_to_ranks, plan_groups, swap_groups_apart
from .mix import swap_repeats_apart
from .ranks import deal_to_ranks
from .repeats import plan_batches, repeating_batches

logger = logging.getLogger(__name__)


class TaskBatchSampler(GlobalBatches[list[int]]):
    """Batches for one rank, as lists of B indices into a `PairDataset`; see [`GlobalBatches`] for what is drawn.

    With `contents`, no query and no document stands twice in a global batch, over all ranks, as long as it has no more
    rows in a task than the task has batches in an epoch. What has more (two labels in batches of 256) has to repeat:
    such rows fill as few batches as possible, whose repeats the loss masks. Their number is logged; no row is dropped.

    >>> sampler = TaskBatchSampler([SourceSlice("a", 0, 5), SourceSlice("b", 5, 10)], batch_size=2)
    >>> sorted("".join("ab"[index // 5] for index in batch) for batch in sampler)  # one row of each is left out
    ['aa', 'aa', 'bb', 'bb']

    Args:
        sources, batch_size: See [`GlobalBatches`].
        contents: `(rows,)` numbers of queries and of documents, see [`PairDataset.contents`]. None: repeats are not
            looked for.
        tokens: `(rows,)` tokens of each row, see [`PairDataset.token_estimates`]: the rows of a global batch are dealt
            to the ranks so that each has about as many tokens. None: they are dealt as they come.
        groups: Of each task, indices `(groups, G)` of the rows that belong into a batch together, see
            [`PairDataset.groups`]: a global batch is a union of whole groups, which meet others each epoch. None: any
            row beside any other.
        **settings: See [`GlobalBatches`].
    """

    def __init__(
        self,
        sources: Sequence[SourceSlice],
        batch_size: int,
        *,
        contents: tuple[np.ndarray, np.ndarray] | None = None,
        tokens: np.ndarray | None = None,
        groups: Sequence[np.ndarray] | None = None,
        **settings: Any,
    ) -> None:
        sizes = None if groups is None else sizes_of_groups(groups)
        super().__init__(sources, batch_size, groups=sizes, **settings)
        self.groups = groups
        self.contents = contents
        self.tokens = tokens

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.global_batches()
        if self.rank == 0:
            self._log_repeats(batches)
        if self.tokens is not None:
            batches = self._dealt(batches, self.tokens)
        for batch in batches:
            yield batch[self.own_rows].tolist()

    def global_batches(self) -> np.ndarray:
        """The plan of the epoch: `(batches, N)` indices, the same on every rank and for every number of ranks."""
        drawn = [self._drawn(number) for number in range(len(self.sources))]
        order = np.random.default_rng((self.seed, self.epoch, len(drawn)))
        size = self.global_batch_size
        if self.rows_of_mix is not None:
            return self._mixed_by_shares(drawn, self.rows_of_mix, order)
        if self.batch_tasks == "mixed":
            drawn = [order.permutation(np.concatenate([rows for rows in drawn if len(rows)]))]
        return order.permutation(np.concatenate([self._batches_of(rows, size, rows.size // size) for rows in drawn]))

    def _drawn(self, number: int) -> np.ndarray:
        """Rows of a task in random order: `(rows,)`, or `(groups, G)` where they are drawn in groups."""
        source, rows = self.sources[number], self.rows_drawn[number]
        order = np.random.default_rng((self.seed, self.epoch, number))
        if self.groups is None:
            return source.start + order.permutation(len(source))[:rows]
        groups = self.groups[number]
        chosen = groups[order.permutation(len(groups))[: rows // groups.shape[1]]]
        return chosen[:, 0] if groups.shape[1] == 1 else chosen

    def _batches_of(self, rows: np.ndarray, size: int, count: int) -> np.ndarray:
        """`(count, size)` of the rows, or of whole groups of them, which are in random order."""
        if rows.ndim == 2:
            return plan_groups(rows, size // rows.shape[1], count, self.contents)
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
        size = max(self.group_sizes)
        ends = (np.cumsum([0, *shares]) // size).tolist()
        columns = [slice(*ends[i : i + 2]) for i in range(len(shares))]
        if size > 1:
            return swap_groups_apart(batches, size, columns, self.contents)
        return swap_repeats_apart(batches, columns, *self.contents)

    def _dealt(self, batches: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        if self.split_groups or max(self.group_sizes) == 1:
            return deal_to_ranks(batches, tokens, self.world_size)
        dealt = batches.copy()
        sizes = np.array(self.group_sizes)[self._tasks_of(batches)]
        for size in np.unique(sizes).tolist():
            own = sizes == size
            dealt[own] = deal_groups_to_ranks(batches[own], size, tokens, self.world_size)
        return dealt

    def _tasks_of(self, batches: np.ndarray) -> np.ndarray:
        """The task of the first row of each batch."""
        return np.searchsorted([source.start for source in self.sources], batches[:, 0], side="right") - 1

    def _log_repeats(self, batches: np.ndarray) -> None:
        if self.contents is None:
            return
        repeats = repeating_batches(batches, *self.contents)
        if repeats.any():
            names = sorted({self.sources[task].name for task in self._tasks_of(batches[repeats]).tolist()})
            logger.warning(
                "%d of %d batches of epoch %d repeat a query or document%s: some %s. The loss masks them; "
                "smaller batches repeat less.",
                repeats.sum(),
                len(batches),
                self.epoch,
                f" of {', '.join(names)}" if self.batch_tasks == "one" else "",
                "stand in one group, or find no batch without them"
                if self.grouped
                else "have more rows than there are batches to keep them apart",
            )
