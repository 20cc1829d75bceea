"""Hardness of the sampled pairs where it is not the model's own cosine: from other vectors, or from a data column."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llave_hf import distributed


@dataclass(frozen=True, eq=False)
class Judge:
    """Whose word on hardness counts: vectors of another model, or numbers of the data.

    Attributes:
        queries, documents, negatives: `(B, E)`, `(B, E)`, `(B, K, E)` vectors.
        document_hardness, negative_hardness: `(B,)`, `(B, K)` numbers.
    """

    queries: torch.Tensor | None = None
    documents: torch.Tensor | None = None
    negatives: torch.Tensor | None = None
    document_hardness: torch.Tensor | None = None
    negative_hardness: torch.Tensor | None = None

    def references(self, rows: slice) -> torch.Tensor | None:
        """h `(n,)` of the sampled queries' own positives; None where only the data say what is hard."""
        if self.queries is None or self.documents is None:
            return None
        return (self.queries[rows] * self.documents[rows]).sum(1)

    def hardness(self, rows: slice, explicit: int, across_devices: bool) -> torch.Tensor:
        """h of sampled queries and their columns, `(n, N + K)`; 0 where nothing was said.

        Args:
            rows: The sampled rows.
            explicit: K of the sample.
            across_devices: Whether documents of all ranks are columns.
        """

        def whole(tensor: torch.Tensor) -> torch.Tensor:
            return distributed.all_gather(tensor) if across_devices else tensor

        if self.queries is not None and self.documents is not None:
            columns = self.queries[rows] @ whole(self.documents).T
            own = (
                None
                if self.negatives is None
                else torch.einsum("nd,nkd->nk", self.queries[rows], self.negatives[rows])
            )
        else:
            said = self.document_hardness if self.document_hardness is not None else self.negative_hardness
            assert said is not None
            size = len(said)
            numbers = said.new_zeros(size) if self.document_hardness is None else self.document_hardness
            columns = whole(numbers).expand(len(range(size)[rows]), -1)
            own = None if self.negative_hardness is None else self.negative_hardness[rows]
        if not explicit:
            return columns
        return torch.cat([columns, columns.new_zeros(len(columns), explicit) if own is None else own], 1)
