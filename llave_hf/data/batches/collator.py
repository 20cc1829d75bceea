"""Pairs to micro-batches: each distinct sample of a batch is encoded once, beside samples of its kind and length."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from llave_hf.data.media import load_sample
from llave_hf.data.rows.labels import numbers_of
from llave_hf.data.samples import Pair, Sample
from llave_hf.data.stored.pictures import StoredPicture
from llave_hf.encoding.rows import Row, join_rows
from llave_hf.model.media_llave import MediaError

from .planning import plan_micro_batches

if TYPE_CHECKING:
    from llave_hf.model.processing_llave import LlaveProcessor

logger = logging.get_logger(__name__)

IMAGES_AT_ONCE = 8


class LlaveCollator:
    """Turns a list of pairs into what `LlaveTrainer` trains on.

    Samples of equal content (text, pictures and video) become one row of one micro-batch; the indices say which.
    Micro-batches hold texts alone, samples with pictures, or samples with a video, so that no text is padded to the
    length of a picture; within a kind, samples are sorted by their tokens. All samples of the step are prepared first
    and then planned together, see [`plan_micro_batches`]. Nothing is random: equal pairs, equal batches.

    Args:
        processor: A `LlaveProcessor`.
        mini_batch_size: Samples in a micro-batch at most; None: no limit.
        mini_batch_num_tokens: Visual and text tokens in a micro-batch at most, padding included; None: no limit. With
            neither limit, there is one micro-batch a kind.
        tasks: Names of the tasks, in the order of their numbers in `task_ids`.
        number_columns: Which of `pos_hardness`, `neg_hardness`, `pos_score`, `neg_score` each row has to have.
        as_bytes: Whether pixels stay bytes, a quarter of the memory on their way from a loader's workers and until a
            micro-batch's turn, when `processor.normalised(micro_batch)` is what the model takes.
    """

    def __init__(
        self,
        processor: LlaveProcessor,
        mini_batch_size: int | None = None,
        mini_batch_num_tokens: int | None = None,
        tasks: Sequence[str] = (),
        number_columns: Sequence[str] = (),
        as_bytes: bool = False,
    ) -> None:
        self.processor = processor
        self.as_bytes = as_bytes
        self.tasks = {name: number for number, name in enumerate(tasks)}
        self.number_columns = tuple(number_columns)
        self.limits = {"mini_batch_size": mini_batch_size, "mini_batch_num_tokens": mini_batch_num_tokens}
        plan_micro_batches([], [], **self.limits)  # refuses limits that are none

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """One batch.

        Returns:
            `micro_batches`: what the processor gives, as dictionaries, padded on the right; M distinct samples in all.
            `query_index, document_index`: `(B,)`, the row of each in the concatenation of all micro-batches.
            `query_ids, document_ids`: `(B,)`, `Sample.key()`.
            `task_ids`: `(B,)`, where the collator knows the tasks.
            `labels`: `(B,)`, -1 where a row has none.
            `group_ids`: `(B,)`, [`Pair.group`], a number of the row's task; -1 where it is in none.
            `document_hardness, negative_hardness, positive_scores, negative_scores`: `(B,)` and `(B, K)` where they
                are asked for.
            `negative_index, negative_ids`: `(B, K)`, where a pair has negatives; the index is -1, and the id 0, past
            the last negative of a pair. They are absent where no pair has any.

        Raises:
            MediaError: A file cannot be used; the message names the source and the row.
            ValueError: A sample cannot be prepared, likewise.
        """
        pairs = one_sample_a_content(pairs)
        return self.join(pairs, self.prepare(pairs))

    def join(self, pairs: Sequence[Pair], prepared: dict[Sample, Row]) -> dict[str, Any]:
        """One batch, from what [`prepare`] gave for these pairs; takes what it uses out of it."""
        samples = list(owners_of(pairs))
        lengths = [len(prepared[sample]) for sample in samples]
        self._tell_of_long_samples(max(lengths))
        groups = plan_micro_batches([kind_of(sample) for sample in samples], lengths, **self.limits)
        row = {samples[place]: number for number, place in enumerate(place for group in groups for place in group)}
        key = {sample: sample.key() for sample in row}

        queries, documents = [p.query for p in pairs], [p.positive for p in pairs]
        pad_token_id = self.processor.tokenizer.pad_token_id or 0
        batch: dict[str, Any] = {
            # Popped, so that pixels are not held twice for the whole batch.
            "micro_batches": [
                join_rows([prepared.pop(samples[place]) for place in group], pad_token_id) for group in groups
            ],
            "query_index": torch.tensor([row[sample] for sample in queries]),
            "document_index": torch.tensor([row[sample] for sample in documents]),
            "query_ids": torch.tensor([key[sample] for sample in queries]),
            "document_ids": torch.tensor([key[sample] for sample in documents]),
        }
        batch["labels"] = torch.tensor([pair.label for pair in pairs])
        batch["group_ids"] = torch.tensor([pair.group for pair in pairs])
        if self.tasks:
            batch["task_ids"] = torch.tensor([self.tasks[pair.source] for pair in pairs])
        most = max(len(pair.negatives) for pair in pairs)
        if most:
            batch["negative_index"] = _padded([[row[s] for s in pair.negatives] for pair in pairs], most, -1)
            batch["negative_ids"] = _padded([[key[s] for s in pair.negatives] for pair in pairs], most, 0)
        return batch | numbers_of(pairs, self.number_columns, most)

    def prepare(
        self, pairs: Sequence[Pair], failures: dict[Sample, ValueError | OSError] | None = None
    ) -> dict[Sample, Row]:
        """Each distinct sample as the model takes it, without padding; many go through the processor together.

        Args:
            pairs: Whose samples.
            failures: Is given the samples that cannot be prepared, and why. None: the first one is raised.
        """
        owners = owners_of(pairs)
        prepared: dict[Sample, Row] = {}
        for group in _groups(list(owners)):
            try:
                prepared |= self._rows(group)
            except (ValueError, OSError):  # which one is it?
                for sample in group:
                    try:
                        prepared |= self._rows([sample])
                    except (ValueError, OSError) as error:
                        if failures is None:
                            raise naming_row(error, owners[sample]) from error
                        failures[sample] = error
        return prepared

    def _rows(self, samples: Sequence[Sample]) -> dict[Sample, Row]:
        """All, or the error of one of them."""
        loaded = [load_sample(sample, self.processor.num_frames, self.processor.max_frames) for sample in samples]
        made = self.processor.unpadded(
            [one["text"] for one in loaded],
            [one.get("images") for one in loaded],
            [one.get("video") for one in loaded],
            as_bytes=self.as_bytes,
        )
        return {
            sample: Row(0, {"input_ids": features.pop("input_ids")}, features)
            for sample, features in zip(samples, made, strict=True)
        }

    def _tell_of_long_samples(self, longest: int) -> None:
        budget = self.limits["mini_batch_num_tokens"]
        if budget is not None and longest > budget:
            logger.warning_once(
                f"some samples are longer than mini_batch_num_tokens {budget} and go through the model alone, which "
                "takes more memory than the budget says; raise it, or lower the processor's max_length."
            )


def kind_of(sample: Sample) -> str:
    """One of [`llave_hf.data.batches.planning.KINDS`]."""
    if sample.video is not None:
        return "video"
    return "image" if sample.images else "text"


def _groups(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Samples of a kind, texts all at once; of the others few, as their decoded pictures are held together."""
    for kind, most in (("text", len(samples)), ("image", IMAGES_AT_ONCE), ("video", 1)):
        of_kind = [sample for sample in samples if kind_of(sample) == kind]
        for start in range(0, len(of_kind), most):
            yield of_kind[start : start + most]


def naming_row(error: Exception, pair: Pair) -> ValueError:
    """The error of a sample of a pair, with its source and row."""
    kind = MediaError if isinstance(error, MediaError) else ValueError
    return kind(f"{pair.source}, row {pair.row}: {error}")


def one_sample_a_content(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """The pairs, where a picture that stands in several rows of a file is one sample, by its bytes.

    These are read for it here, and for `Sample.key()` not again.
    """
    stored = [s for s in owners_of(pairs) if any(isinstance(image, StoredPicture) for image in s.images)]
    first: dict[int, Sample] = {}
    same: dict[Sample, Sample] = {}
    for sample in stored:
        with contextlib.suppress(MediaError):  # it is named where it is opened
            known = tuple(i.with_digest() if isinstance(i, StoredPicture) else i for i in sample.images)
            looked_at = replace(sample, images=known)
            same[sample] = first.setdefault(looked_at.key(), looked_at)
    if not same:
        return pairs

    def one(sample: Sample) -> Sample:
        return same.get(sample, sample)

    return [
        replace(p, query=one(p.query), positive=one(p.positive), negatives=tuple(map(one, p.negatives))) for p in pairs
    ]


def owners_of(pairs: Sequence[Pair]) -> dict[Sample, Pair]:
    """The distinct samples of pairs, each with the first that has it."""
    owners: dict[Sample, Pair] = {}
    for pair in pairs:
        for sample in (pair.query, pair.positive, *pair.negatives):
            owners.setdefault(sample, pair)
    return owners


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
