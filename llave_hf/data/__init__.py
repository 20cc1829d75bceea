"""From rows to batches: `load_pairs` → `PairDataset` → `TaskBatchSampler` → `LlaveCollator`; or, of data larger than
memory, `stream_pairs` → `StreamedPairs` → `StreamedBatches` → `LlaveCollator`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llave_hf.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from llave_hf.data.batches.collator import LlaveCollator
    from llave_hf.data.batches.sampler import TaskBatchSampler
    from llave_hf.data.streaming.batches import StreamedBatches
    from llave_hf.data.streaming.tasks import StreamedPairs, stream_pairs
    from llave_hf.model.media_llave import MediaError

    from .media import load_sample, open_image, open_video, resolve_media_path
    from .pairs import Pair, PairDataset, Sample, SourceSlice, load_pairs, sample_from
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "LlaveCollator": "batches.collator",
            "MediaError": "media",
            "Pair": "pairs",
            "PairDataset": "pairs",
            "Sample": "pairs",
            "SourceSlice": "pairs",
            "StreamedBatches": "streaming.batches",
            "StreamedPairs": "streaming.tasks",
            "TaskBatchSampler": "batches.sampler",
            "load_pairs": "pairs",
            "load_sample": "media",
            "open_image": "media",
            "open_video": "media",
            "resolve_media_path": "media",
            "sample_from": "pairs",
            "stream_pairs": "streaming.tasks",
        },
    )

__all__ = [
    "LlaveCollator",
    "MediaError",
    "Pair",
    "PairDataset",
    "Sample",
    "SourceSlice",
    "StreamedBatches",
    "StreamedPairs",
    "TaskBatchSampler",
    "load_pairs",
    "load_sample",
    "open_image",
    "open_video",
    "resolve_media_path",
    "sample_from",
    "stream_pairs",
]
