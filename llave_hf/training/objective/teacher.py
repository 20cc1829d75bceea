"""Hardness from a frozen teacher model, which encodes each distinct sample of the data once, before the first step."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from llave_hf import distributed
from llave_hf.data.batches.collator import naming_row, owners_of
from llave_hf.data.samples import Pair, Sample
from llave_hf.data.streaming.tasks import TrainingPairs
from llave_hf.data.vectors.embedding_cache import PIECE, EmbeddingCache, model_identity
from llave_hf.errors import UserError
from llave_hf.training.recovery.bad_sample_log import BadSampleLog

logger = logging.get_logger(__name__)

PIECES_FOLDER = "pieces"
VECTORS_FILE = "vectors.npy"


class Teacher:
    """Vectors by content, on disk: any model that embeds can teach, whatever its processor.

    A teacher that does not change gives the same vector each time, so an epoch of it is enough for all epochs.

    Args:
        keys: `(M,)` [`Sample.key`], ascending.
        vectors: `(M, E)` float32, L2-normalised, mapped from disk.
    """

    def __init__(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        self.keys = keys
        self.vectors = vectors

    @classmethod
    def of(
        cls,
        model: str,
        dataset: TrainingPairs,
        folder: Path,
        *,
        device: str,
        batch_size: int,
        use_negatives: bool,
        bad_samples: BadSampleLog,
    ) -> Teacher:
        """Encodes all samples of a data set; every rank calls it and encodes its share.

        Args:
            model: A folder or Hub id of anything that embeds.
            dataset: Whose queries, positives and, with `use_negatives`, negatives are encoded.
            folder: Where vectors are kept, seen by all ranks; a stopped run goes on there.
            device: Where the model runs.
            batch_size: Inputs a forward pass.
            bad_samples: Is told of those that the model cannot encode, where the run goes on without them.

        Raises:
            ValueError: A sample cannot be encoded, and the run is to stop there; the message names source and row.
            UserError: More than `max_bad_samples` cannot be encoded.
        """
        from llave_hf.encoding.sentence_transformer import load_encoder

        samples = {sample.key(): sample for sample in _samples(dataset, use_negatives)}
        ordered = [samples[key] for key in sorted(samples)]
        logger.info(f"hardness_teacher {model} encodes {len(ordered):,} distinct samples once.")
        rank, world_size = distributed.rank(), distributed.world_size()
        encoder = load_encoder(model, device=device)
        cache = EmbeddingCache(
            encoder, folder / PIECES_FOLDER, model_identity(model), batch_size, show_progress=rank == 0
        )
        starts = range(rank * PIECE, len(ordered), PIECE * world_size)
        own = [sample for start in starts for sample in ordered[start : start + PIECE]]
        bad_samples.foretell(_fill(cache, own, dataset, bad_samples), dataset)
        cache.encoder = encoder = None
        gc.collect()
        usable = [sample for sample in ordered if sample.key() not in bad_samples.unusable]
        if not usable:
            raise UserError(f"hardness_teacher {model} can encode none of the samples; mend the files, or the model.")
        if rank == 0:
            _join(cache, usable, folder / VECTORS_FILE)
        distributed.barrier()
        keys = np.array([sample.key() for sample in usable], dtype=np.int64)
        return cls(keys, np.load(folder / VECTORS_FILE, mmap_mode="r"))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors `(..., E)` of samples with these keys `(...)`; a key of 0 that nobody has, as past a row's last
        negative, gives the first vector.

        Raises:
            ValueError: A sample was not in the data that the teacher encoded.
        """
        wanted = ids.cpu().numpy().ravel()
        places = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        known = self.keys[places] == wanted
        if not (known | (wanted == 0)).all():
            raise ValueError("a sample of this batch was not encoded by the teacher: the data have changed since.")
        places[~known] = 0
        vectors = torch.from_numpy(self.vectors[places]).to(ids.device)
        return vectors.view(*ids.shape, vectors.shape[-1])


def _fill(
    cache: EmbeddingCache, samples: Sequence[Sample], dataset: TrainingPairs, bad_samples: BadSampleLog
) -> dict[int, str]:
    """Encodes a rank's share; the keys of those that cannot be encoded, and why."""
    failed: dict[int, str] = {}

    def tell(sample: Sample, error: Exception) -> None:
        said = ValueError(f"the teacher cannot encode it: {str(error).removeprefix('input 0: ')}")
        failed[sample.key()] = str(said)
        if bad_samples.on and len(failed) <= bad_samples.limit:
            return
        named = naming_row(said, next(pair for pair in _pairs(dataset) if sample in owners_of([pair])))
        if not bad_samples.on:
            raise named from error
        raise UserError(
            f"the teacher cannot encode {len(failed)} samples, more than max_bad_samples ({bad_samples.limit}); the "
            f"last was: {named}"
        ) from error

    cache.fill(samples, "teacher", tell)
    return failed


def _pairs(dataset: TrainingPairs) -> Iterator[Pair]:
    return (dataset[index] for index in range(len(dataset)))


def _samples(dataset: TrainingPairs, use_negatives: bool) -> Iterator[Sample]:
    for pair in _pairs(dataset):
        yield pair.query
        yield pair.positive
        if use_negatives:
            yield from pair.negatives


def _join(cache: EmbeddingCache, samples: list[Sample], path: Path) -> None:
    """One file of all vectors, which ranks map instead of each holding a copy."""
    vectors: np.memmap | None = None
    for start in range(0, len(samples), PIECE):
        piece = cache.encode(samples[start : start + PIECE], "teacher")
        if vectors is None:
            shape = (len(samples), piece.shape[1])
            vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        vectors[start : start + len(piece)] = piece
    assert vectors is not None
    vectors.flush()
