"""The distinct samples of many rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llave_hf.data.samples import Sample


@dataclass(frozen=True)
class Distinct:
    """Distinct samples of one side: `number[i]` is that of row i, `row[n]` the first row of sample n."""

    samples: list[Sample]
    number: np.ndarray
    row: list[int]


def distinct(samples: Sequence[Sample]) -> Distinct:
    """The samples of one side of all rows, each once."""
    numbers: dict[Sample, int] = {}
    rows: list[int] = []
    number = np.empty(len(samples), dtype=np.int64)
    for row, sample in enumerate(samples):
        if sample not in numbers:
            numbers[sample] = len(numbers)
            rows.append(row)
        number[row] = numbers[sample]
    return Distinct(list(numbers), number, rows)
