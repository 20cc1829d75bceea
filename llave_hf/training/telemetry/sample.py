"""The pairs of a step that telemetry looks at: some of the queries against all documents.

In shapes: B local rows, W ranks, N = B * W, n sampled rows of this rank, K explicit negatives a query, C = N + K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llave_hf import distributed
from llave_hf.losses.negatives import with_unknown_apart

MOST_ROWS, FEWEST_ROWS, MOST_PAIRS = 128, 16, 2**18


@dataclass(frozen=True, eq=False)
class PairSample:
    """Sampled queries against every document of the global batch, and their own explicit negatives.

    Attributes:
        rows: Which of the B local rows.
        numbers: `(n,)` their numbers in the global batch.
        similarities: `(n, C)` cosines; the last K columns are the row's own explicit negatives.
        positives: `(n,)` s_ii.
        usable: `(n, C)`, True where a column is a negative of the row: neither its positive, nor equal content.
        explicit: K.
        query_cosines, document_cosines: `(n, 2)`: the sum over all other queries (documents) of their cosines with
            the row's own one, and how many they are. Equal content is left out.
        hardness: `(n, C)` h of each pair; None: its cosine.
        references: `(n,)` h of each query's own positive; None: its cosine.
        teacher, teacher_positives: `(n, C)` and `(n,)` cosines of a teacher, or None.
        same_group: `(n, C)`, True at the documents of other rows of the row's own mined group, or None.
    """

    rows: slice
    numbers: torch.Tensor
    similarities: torch.Tensor
    positives: torch.Tensor
    usable: torch.Tensor
    explicit: int
    query_cosines: torch.Tensor
    document_cosines: torch.Tensor
    hardness: torch.Tensor | None = None
    references: torch.Tensor | None = None
    teacher: torch.Tensor | None = None
    teacher_positives: torch.Tensor | None = None
    same_group: torch.Tensor | None = None

    @property
    def others(self) -> torch.Tensor:
        """`(n, C)`, True at the documents of other rows, whatever their content."""
        columns = torch.arange(self.similarities.shape[1], device=self.similarities.device)
        return (columns != self.numbers[:, None]) & (columns < len(columns) - self.explicit)


@dataclass(frozen=True, eq=False)
class Gathered:
    """What every rank knows of the global batch.

    Attributes:
        documents: `(N, D)`.
        query_total: `(D,)`, the sum of all queries.
        query_ids, document_ids: `(N,)`; where none were given, row numbers.
        offset: The global number of this rank's first row.
        labels: `(N,)`; each unknown one is equal to nothing else. None: there are none.
        groups: `(N, 2)` mined group, below 0 for none, and task of each row, or None.
    """

    documents: torch.Tensor
    query_total: torch.Tensor
    query_ids: torch.Tensor
    document_ids: torch.Tensor
    offset: int
    labels: torch.Tensor | None = None
    groups: torch.Tensor | None = None


def gather(
    queries: torch.Tensor,
    documents: torch.Tensor,
    query_ids: torch.Tensor | None,
    document_ids: torch.Tensor | None,
    across_devices: bool,
    labels: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
) -> Gathered:
    """The global batch of every rank's `(B, D)` queries and documents; this rank's alone without `across_devices`.

    `labels` `(B,)` and `groups` `(B, 2)` go with them, where there are any.
    """
    size, device = len(queries), queries.device
    offset = distributed.rank() * size if across_devices else 0
    numbers = torch.arange(offset, offset + size, device=device)
    columns = [numbers if x is None else x.to(device).long() for x in (query_ids, document_ids)]
    columns += [] if labels is None else [labels.to(device).long()]
    columns += [] if groups is None else groups.to(device).long().unbind(1)
    ids = torch.stack(columns, 1)
    total = queries.sum(0)
    if across_devices:
        documents, ids, total = (
            distributed.all_gather(documents),
            distributed.all_gather(ids),
            distributed.all_reduce_sum(total),
        )
    return Gathered(
        documents,
        total,
        ids[:, 0],
        ids[:, 1],
        offset,
        labels=None if labels is None else with_unknown_apart(ids[:, 2]),
        groups=None if groups is None else ids[:, -2:],
    )


def sampled_rows(size: int, whole: int, offset: int) -> slice:
    """Which of a rank's rows are looked at: every k-th of the global batch, whatever the number of ranks.

    At most 128 rows, and at most 2^18 pairs (but 16 rows), so that memory stays flat as the batch grows.

    Args:
        size, whole, offset: B, N and the global number of the rank's first row.
    """
    wanted = max(FEWEST_ROWS, min(MOST_ROWS, MOST_PAIRS // max(whole, 1)))
    step = max(1, -(-whole // wanted))
    return slice(-offset % step, size, step)


def sample_pairs(
    queries: torch.Tensor,
    documents: torch.Tensor,
    whole: Gathered,
    negatives: torch.Tensor | None = None,
    negative_ids: torch.Tensor | None = None,
    negative_mask: torch.Tensor | None = None,
) -> PairSample:
    """See [`PairSample`]; this rank's `(B, D)` queries and documents, and `(B, K, ...)` explicit negatives."""
    rows = sampled_rows(len(queries), len(whole.documents), whole.offset)
    sampled, own = queries[rows], documents[rows]
    numbers = torch.arange(len(queries), device=queries.device)[rows] + whole.offset
    same_query = whole.query_ids[numbers, None] == whole.query_ids
    same_document = whole.document_ids[numbers, None] == whole.document_ids
    similarities, usable = sampled @ whole.documents.T, ~(same_query | same_document)
    if whole.labels is not None:
        usable &= whole.labels[numbers, None] != whole.labels
    same_group = None if whole.groups is None else _same_group(whole.groups, numbers)
    if negatives is not None:
        similarities = torch.cat([similarities, torch.einsum("nd,nkd->nk", sampled, negatives[rows])], 1)
        present = torch.ones_like(negatives[rows, :, 0], dtype=torch.bool)
        if negative_mask is not None:
            present = negative_mask[rows].bool()
        if negative_ids is not None:
            present = present & (negative_ids[rows] != whole.document_ids[numbers, None])
        usable = torch.cat([usable, present], 1)
        if same_group is not None:
            same_group = torch.cat([same_group, torch.zeros_like(present)], 1)
    return PairSample(
        rows=rows,
        numbers=numbers,
        similarities=similarities,
        positives=(sampled * own).sum(1),
        usable=usable,
        explicit=0 if negatives is None else negatives.shape[1],
        query_cosines=_others(sampled, whole.query_total, same_query),
        document_cosines=_others(own, whole.documents.sum(0), same_document),
        same_group=same_group,
    )


def _same_group(groups: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """`(n, N)`: other rows of the same group of the same task."""
    same = (groups[numbers, None] == groups).all(2) & (groups[numbers, None, 0] >= 0)
    return same.scatter_(1, numbers[:, None], False)


def _others(vectors: torch.Tensor, total: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """`(n, 2)`, see [`PairSample.query_cosines`]; equal content has cosine 1."""
    equal = same.sum(1).to(vectors.dtype)
    return torch.stack([vectors @ total - equal, same.shape[1] - equal], 1)
