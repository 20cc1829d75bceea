"""What telemetry counts where batches are made of mined groups: negatives of a row's own group, and of others."""

from __future__ import annotations

import torch

from .integers import SHARE_BINS, UNIT, add_shares, in_units
from .sample import PairSample
from .weights import PairWeights, effective

KINDS = ("own_group", "other_groups")

# Sums over queries, of a kind of negatives.
COUNTS = (
    "pairs",  # in-batch pairs of a query and another row's document
    "negatives",  # of these, the ones that count
    "contrasted",  # queries that have such a negative
    "outscored",  # queries that have one above their positive by more than the margin of telemetry
)
AMOUNTS = ("gradient", "hardness_negatives")
SUMS = (*(f"{name}_{kind}" for kind in KINDS for name in (*COUNTS, *AMOUNTS)), "gradient")


class GroupCounts:
    """Counts of T tasks, and of all together as row T, by kind of negatives.

    Args:
        flat: Where they are kept, `(size(T),)` int64.
        tasks: T.

    Attributes:
        shares: `(2, 1 + SHARE_BINS)`, of each of [`KINDS`] a histogram as [`add_shares`] fills it, of all tasks.
        sums: `(T + 1, len(SUMS))`; `gradient` is that of all negatives, a row's own explicit ones among them.
    """

    def __init__(self, flat: torch.Tensor, tasks: int) -> None:
        self.tasks = tasks
        shares, sums = flat.split([len(KINDS) * (1 + SHARE_BINS), (tasks + 1) * len(SUMS)])
        self.shares = shares.view(len(KINDS), 1 + SHARE_BINS)
        self.sums = sums.view(tasks + 1, len(SUMS))

    @staticmethod
    def size(tasks: int) -> int:
        """How many integers they take."""
        return len(KINDS) * (1 + SHARE_BINS) + (tasks + 1) * len(SUMS)

    def total(self, name: str, row: int = -1) -> float:
        """One of [`SUMS`] of a task, or of all."""
        value = int(self.sums[row, SUMS.index(name)])
        return value * UNIT if name.startswith(AMOUNTS) else float(value)

    def copy_row(self, other: GroupCounts, row: int) -> None:
        """Takes over one task of `other`, or all together (row T)."""
        self.sums[row].copy_(other.sums[row])
        if row == self.tasks:
            self.shares.copy_(other.shares)

    def add(self, sample: PairSample, weights: PairWeights, above: torch.Tensor, rows: list[torch.Tensor]) -> None:
        """Adds a step's pairs.

        Args:
            sample: The pairs; without groups, nothing is counted.
            weights: What they weigh.
            above: `(n, C)` negatives above their query's positive by more than the margin of telemetry.
            rows: Where each query counts, `(n,)` each.
        """
        if sample.same_group is None:
            return
        columns: list[torch.Tensor] = []
        for kind, pairs in enumerate((sample.same_group, sample.others & ~sample.same_group)):
            counted = weights.usable & pairs
            add_shares(self.shares[kind], weights.log_shares, counted)
            negatives = counted.sum(1)
            columns += [pairs.sum(1), negatives, negatives > 0, (above & pairs).any(1)]
            columns += [in_units(_gradient(weights, counted)), in_units(effective(weights.log_weights, counted)[0])]
        columns.append(in_units(_gradient(weights, weights.usable)))
        matrix = torch.stack([column.long() for column in columns], 1)
        for numbers in rows:
            self.sums.index_add_(0, numbers, matrix)


def _gradient(weights: PairWeights, counted: torch.Tensor) -> torch.Tensor:
    """`(n,)` sums of the shares of the pairs that are counted."""
    return weights.log_shares.masked_fill(~counted, -torch.inf).exp_().sum(1)
