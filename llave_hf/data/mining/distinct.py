"""The distinct samples of many rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llave_hf.data.samples import Sample
from llave_hf.data.stored.pictures import StoredPicture


@dataclass(frozen=True)
class Distinct:
    """Distinct samples of one side.

    Attributes:
        samples: Each once.
        number: `number[i]` is that of row i.
        row: `row[n]` is the first row of sample n.
        numbers: The number of a sample by its content.
    """

    samples: list[Sample]
    number: np.ndarray
    row: list[int]
    numbers: dict[Hashable, int]

    def find(self, sample: Sample) -> int:
        """The number of a sample, perhaps of another side; -1 where it is none of these."""
        return self.numbers.get(_content_of(sample), -1)


def distinct(samples: Sequence[Sample]) -> Distinct:
    """The samples of one side of all rows, each once.

    Pictures that stand in tables are equal where their bytes are, which are read for it; files, where their paths are.

    Raises:
        MediaError: A picture cannot be read.
    """
    numbers: dict[Hashable, int] = {}
    found: list[Sample] = []
    rows: list[int] = []
    number = np.empty(len(samples), dtype=np.int64)
    for row, sample in enumerate(samples):
        sample = _with_digests(sample)
        content = _content_of(sample)
        if content not in numbers:
            numbers[content] = len(numbers)
            found.append(sample)
            rows.append(row)
        number[row] = numbers[content]
    return Distinct(found, number, rows, numbers)


def _with_digests(sample: Sample) -> Sample:
    """The sample, with the digests of pictures that stand in tables, so that their bytes are read once for it."""
    if not any(isinstance(image, StoredPicture) for image in sample.images):
        return sample
    images = (image.with_digest() if isinstance(image, StoredPicture) else image for image in sample.images)
    return replace(sample, images=tuple(images))


def _content_of(sample: Sample) -> Hashable:
    """What is equal of two samples that are one."""
    if not any(isinstance(image, StoredPicture) for image in sample.images):
        return sample
    media = tuple((image.content(),) if isinstance(image, StoredPicture) else image for image in sample.images)
    return sample.text, sample.video, sample.media_root, media
