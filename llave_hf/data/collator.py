"""Pairs to micro-batches: each distinct sample of a batch is encoded once, beside samples of its own kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from llave_hf.media_llave import MediaError

from .media import load_sample
from .samples import Pair, Sample

if TYPE_CHECKING:
    from llave_hf.processing_llave import LlaveProcessor

KINDS = ("text", "image", "video")


class LlaveCollator:
    """Turns a list of pairs into what `LlaveTrainer` trains on.

    Samples of equal content (text, pictures and video) become one row of one micro-batch; the indices say which.
    Micro-batches hold texts alone, samples with pictures, or samples with a video, so that no text is padded to the
    length of a picture; within a kind, samples are sorted by size. Nothing is random: equal pairs, equal batches.

    Example, with two pairs whose documents are the same:

    >>> class Lengths:  # stands for a LlaveProcessor
    ...     num_frames, max_frames = None, 32
    ...     def __call__(self, text, images=None, videos=None, return_tensors="pt"):
    ...         return {"length": torch.tensor([len(t) for t in text])}
    >>> pairs = [Pair(Sample("a dog"), Sample("dog"), (Sample("cat"),)), Pair(Sample("a big dog"), Sample("dog"))]
    >>> batch = LlaveCollator(Lengths(), mini_batch_size=2)(pairs)
    >>> batch["micro_batches"]  # "dog", "cat"; "a dog", "a big dog"
    [{'length': tensor([3, 3])}, {'length': tensor([5, 9])}]
    >>> batch["query_index"], batch["document_index"], batch["negative_index"]
    (tensor([2, 3]), tensor([0, 0]), tensor([[ 1],
            [-1]]))

    Args:
        processor: A `LlaveProcessor`.
        mini_batch_size: Samples in a micro-batch at most; None makes one micro-batch a kind.
    """

    def __init__(self, processor: LlaveProcessor, mini_batch_size: int | None = None) -> None:
        if mini_batch_size is not None and mini_batch_size < 1:
            raise ValueError(f"mini_batch_size is {mini_batch_size}; it must be at least 1, or None for no limit.")
        self.processor = processor
        self.mini_batch_size = mini_batch_size

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """One batch.

        Returns:
            `micro_batches`: outputs of the processor, as dictionaries; M distinct samples in all.
            `query_index, document_index`: `(B,)`, the row of each in the concatenation of all micro-batches.
            `query_ids, document_ids`: `(B,)`, `Sample.key()`.
            `negative_index, negative_ids`: `(B, K)`, where a pair has negatives; the index is -1, and the id 0, past
            the last negative of a pair. They are absent where no pair has any.

        Raises:
            MediaError: A file cannot be used; the message names the source and the row.
        """
        owners: dict[Sample, Pair] = {}
        for pair in pairs:
            for sample in (pair.query, pair.positive, *pair.negatives):
                owners.setdefault(sample, pair)
        groups = plan_micro_batches(owners, self.mini_batch_size)
        row = {sample: number for number, sample in enumerate(sample for group in groups for sample in group)}
        key = {sample: sample.key() for sample in row}

        queries, documents = [p.query for p in pairs], [p.positive for p in pairs]
        batch: dict[str, Any] = {
            "micro_batches": [self._encode(group, owners) for group in groups],
            "query_index": torch.tensor([row[sample] for sample in queries]),
            "document_index": torch.tensor([row[sample] for sample in documents]),
            "query_ids": torch.tensor([key[sample] for sample in queries]),
            "document_ids": torch.tensor([key[sample] for sample in documents]),
        }
        most = max(len(pair.negatives) for pair in pairs)
        if most:
            batch["negative_index"] = _padded([[row[s] for s in pair.negatives] for pair in pairs], most, -1)
            batch["negative_ids"] = _padded([[key[s] for s in pair.negatives] for pair in pairs], most, 0)
        return batch

    def _encode(self, samples: Sequence[Sample], owners: dict[Sample, Pair]) -> dict[str, torch.Tensor]:
        loaded = []
        for sample in samples:
            try:
                loaded.append(load_sample(sample, self.processor.num_frames, self.processor.max_frames))
            except MediaError as error:
                raise MediaError(f"{owners[sample].source}, row {owners[sample].row}: {error}") from error
        images = [entry.get("images") for entry in loaded]
        videos = [entry.get("video") for entry in loaded]
        encoded = self.processor(
            text=[entry["text"] for entry in loaded],
            images=images if any(images) else None,
            videos=videos if any(videos) else None,
            return_tensors="pt",
        )
        return dict(encoded)


def plan_micro_batches(samples: Iterable[Sample], mini_batch_size: int | None) -> list[list[Sample]]:
    """Groups samples by kind and, within a kind, by size; cuts each kind into parts of nearly equal number.

    Args:
        samples: Distinct samples; their order decides between samples of equal size.
        mini_batch_size: The most samples in a part; None does not cut.
    """
    kinds: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
    for sample in samples:
        kinds[_kind(sample)].append(sample)
    groups = []
    for members in kinds.values():
        members.sort(key=_size)
        parts = -(-len(members) // (mini_batch_size or max(len(members), 1)))
        for part in range(parts):  # 33 samples by at most 32 make 16 and 17, not 32 and 1
            groups.append(members[part * len(members) // parts : (part + 1) * len(members) // parts])
    return groups


def _kind(sample: Sample) -> str:
    if sample.video is not None:
        return "video"
    return "image" if sample.images else "text"


def _size(sample: Sample) -> tuple[int, int]:
    """What decides the length of a sequence, as far as can be known without opening a file."""
    return len(sample.images), len(sample.text.encode("utf-8", "surrogatepass"))


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
