"""The batches of a run: a loader of indexed rows or of a stream, and how much of them is padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from llave_hf.data.batches.sampler import TaskBatchSampler
from llave_hf.data.pairs import PairDataset
from llave_hf.data.samples import Pair
from llave_hf.data.streaming.batches import StreamedBatches
from llave_hf.data.streaming.tasks import StreamedPairs, TrainingPairs
from llave_hf.training.recipe.arguments import LlaveTrainingArguments


class EpochDataLoader(DataLoader):
    """A DataLoader that tells its batch sampler the epoch, as Trainer asks of accelerate's loaders."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class GivenPairs(torch.utils.data.Dataset[Pair]):
    """For a batch sampler that brings the pairs themselves: what a loader asks for is what it gets."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, pair: Pair) -> Pair:
        return pair


def train_dataloader(
    args: LlaveTrainingArguments, pairs: TrainingPairs, collate: Callable[[Any], Any]
) -> EpochDataLoader:
    """Batches of this rank, of one task over all ranks where `batch_tasks` says so.

    Trainer skips the batches of a resumed run by their place in the batch sampler, so they are not collated.

    Raises:
        ValueError: A setting of the batches is out of its range, no task fills a global batch, or `batch_groups` is
            on and a task has no groups.
    """
    balances = args.balance_tokens and args.world_size > 1
    settings: dict[str, Any] = {
        "batch_size": args.per_device_train_batch_size,
        "rank": args.process_index,
        "world_size": args.world_size,
        "seed": args.data_seed if args.data_seed is not None else args.seed,
        "batch_tasks": args.batch_tasks,
        "batch_mix": args.batch_mix,
        "sampling_temperature": args.sampling_temperature,
        "split_groups": args.gather_across_devices,
    }
    dataset: PairDataset | GivenPairs
    sampler: TaskBatchSampler | StreamedBatches
    if isinstance(pairs, StreamedPairs):
        dataset = GivenPairs(len(pairs))
        sampler = StreamedBatches(
            pairs,
            buffer_size=args.stream_buffer_size,
            avoid_repeats=args.avoid_repeats,
            balance_tokens=balances,
            batch_groups=args.batch_groups,
            **settings,
        )
    else:
        dataset = pairs
        contents = pairs.contents() if args.avoid_repeats else None
        tokens = pairs.token_estimates(use_negatives=args.use_negatives) if balances else None
        groups = pairs.groups() if args.batch_groups else None
        sampler = TaskBatchSampler(pairs.sources, contents=contents, tokens=tokens, groups=groups, **settings)
    return EpochDataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        in_order=args.dataloader_in_order,
    )


class TokenCount:
    """Counts real and padded tokens; is false as long as there are none."""

    def __init__(self) -> None:
        self.real = 0
        self.padded = 0

    def __bool__(self) -> bool:
        return self.padded > 0

    def add(self, micro_batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
        """Counts micro-batches; their masks should still be on the CPU."""
        real, padded = count_tokens(micro_batches)
        self.real += real
        self.padded += padded

    def take(self) -> float:
        """Real / padded tokens, 0 to 1, of all that was counted since the last time."""
        fill = self.real / self.padded
        self.real = self.padded = 0
        return round(fill, 4)


def count_tokens(micro_batches: Iterable[Mapping[str, torch.Tensor]]) -> tuple[int, int]:
    """`(real, padded)` tokens of micro-batches; padded ones include the real ones."""
    masks = [micro_batch["attention_mask"] for micro_batch in micro_batches]  # (B, T) each
    return sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
