"""Groups of rows that are hard negatives of each other, and how hard they are: what `batch_group` numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llave_hf.data.batches.repeats import repeating_batches

from .candidates import Candidates, mutual_edges
from .growing import Grower
from .mutual import grow_by_edges
from .owners import grow_by_owners

GROUP_BY = ("mutual_ranks", "owner_queries")
_PAIRS_DRAWN = 100_000
MOST = 0.5  # of all pairs, from which on hard is no choice


@dataclass(frozen=True)
class Grouping:
    """Groups of the rows of one task.

    Attributes:
        rows: `(groups, G)`.
        hard_share: Of the pairs of rows in a group, the share whose documents are hard negatives of each other's
            queries.
        random_share: The same of any two rows of the task, of 100,000 drawn pairs.
        repeating: Groups in which a query, a document or a label stands twice.
        left: Rows that are in no group.
        forced: Groups whose rows may answer each other.
    """

    rows: np.ndarray
    hard_share: float
    random_share: float
    repeating: int
    left: int
    forced: int = 0

    def numbers(self, size: int) -> np.ndarray:
        """The group of each of `size` rows: int64, -1 where it is in none."""
        groups = np.full(size, -1, dtype=np.int64)
        groups[self.rows.ravel()] = np.repeat(np.arange(len(self.rows)), self.rows.shape[1])
        return groups

    def report(self) -> str:
        """What to tell of them."""
        lines = (
            f"{len(self.rows):,} groups of {self.rows.shape[1]}; {self.hard_share:.1%} of the pairs inside them are "
            f"hard for each other, and {self.random_share:.1%} of all pairs; {self.repeating:,} groups hold a query, "
            f"document or label twice, {self.left:,} rows are in no group"
        )
        if self.forced:
            lines += f", {self.forced:,} groups hold rows that may answer each other, as no others were left"
        if self.left >= self.rows.shape[1]:
            lines += ": too many of the nearest may answer them by the margins and rank_min; lower these, or rank_max"
        if self.random_share > MOST and self.repeating < len(self.rows):  # a few labels are all there is to meet
            lines += "; rank_max takes in most of the task, so that groups are little harder than chance: lower it"
        return lines


def group_rows(found: Candidates, size: int, by: str, query_vectors: np.ndarray, needed: int = 0) -> Grouping:
    """Groups the rows of a task.

    Args:
        found: What is hard, and what may answer what.
        size: G, rows of a group.
        by: `"mutual_ranks"`: from a row on, always the row that is hard for the most rows of the group, and they for
            it. `"owner_queries"`: to a row, the rows whose documents are nearest to its query, of these the ones whose
            queries are farthest from it; with labels, the nearest.
        query_vectors: `(Q, D)`, L2-normalised.
        needed: So many groups are made, at last of rows that may answer each other.
    """
    grower = Grower(found, size)
    if by == "mutual_ranks":
        grow_by_edges(grower, *mutual_edges(found))
    else:
        grow_by_owners(grower, query_vectors)
    grower.fill_up()
    forced = grower.force(needed)
    rows = np.array(grower.groups, dtype=np.int64).reshape(-1, size)
    one, other = np.triu_indices(size, 1)
    any_two = np.random.default_rng(0).integers(0, len(found), (2, _PAIRS_DRAWN))
    return Grouping(
        rows,
        _hard_share(found, rows[:, one].ravel(), rows[:, other].ravel()),
        _hard_share(found, *any_two[:, any_two[0] != any_two[1]]),
        int(_repeating(rows, found).sum()),
        len(found) - rows.size,
        forced,
    )


def _hard_share(found: Candidates, one: np.ndarray, other: np.ndarray) -> float:
    return float(found.are_hard(one, other).mean()) if len(one) else 0.0


def _repeating(rows: np.ndarray, found: Candidates) -> np.ndarray:
    codes = [found.queries, found.documents]
    if found.labels is not None:  # a row without a label is like no other
        codes.append(np.where(found.labels < 0, -1 - np.arange(len(found)), found.labels))
    return repeating_batches(rows, *codes)
