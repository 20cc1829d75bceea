"""`mine_every`: the model itself finds groups of hard rows again, every so many epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from llave_hf import distributed
from llave_hf.data.batches.sampler import TaskBatchSampler
from llave_hf.data.mining.mining import MiningOptions, mine_task
from llave_hf.data.rows.tasks import PairDataset
from llave_hf.data.samples import Pair
from llave_hf.data.vectors.embedding_cache import EmbeddingCache
from llave_hf.encoding.encoder import LlaveEncoder

logger = logging.get_logger(__name__)

STATE_FILE = "mined_groups.npz"


class MinedGroups(TrainerCallback):
    """The groups that an epoch's batches are made of.

    Every rank encodes its share of the rows, and all take the groups of the first. A task keeps as many groups as the
    data brought, so that an epoch has as many steps. A checkpoint holds the groups, so that a run that goes on in the
    middle of an epoch has those that the epoch began with.

    Args:
        dataset: The rows, with groups.
        every: Epochs between two times.
        options: What is hard; the size of groups is that of the data.
        encoder: Gives the model as it is now.
        batch_size: Inputs a forward pass.
    """

    def __init__(
        self,
        dataset: PairDataset,
        every: int,
        options: MiningOptions,
        encoder: Callable[[], AbstractContextManager[LlaveEncoder]],
        batch_size: int,
    ) -> None:
        self.dataset = dataset
        self.every = every
        self.options = options
        self.encoder = encoder
        self.batch_size = batch_size
        self._take(dataset.groups())
        self.epoch = 0  # that they are of

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Mines where it is time, before the epoch's batches are planned."""
        epoch = int((state.epoch or 0) + 1e-6)
        if epoch % self.every == 0 and epoch != self.epoch:
            self._mine()
            self.epoch = epoch
        sampler = given["train_dataloader"].batch_sampler
        assert isinstance(sampler, TaskBatchSampler)
        sampler.groups = self.groups

    def group_ids(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The groups that rows are in now, `(B,)`, numbers of their tasks; -1: in none."""
        places = {task.name: place for place, task in enumerate(self.dataset.tasks)}
        found = []
        for pair in pairs:
            place = places[pair.source]
            found.append(self._of_rows[place][np.searchsorted(self.dataset.tasks[place].rows, pair.row)])
        return torch.from_numpy(np.array(found))

    def save_state(self, checkpoint: str) -> None:
        """The groups, and the epoch that they are of."""
        if distributed.rank() == 0:
            arrays: dict[str, Any] = {f"task_{number}": groups for number, groups in enumerate(self.groups)}
            np.savez(Path(checkpoint) / STATE_FILE, epoch=np.array(self.epoch), **arrays)

    def load_state(self, checkpoint: str | None) -> None:
        """Those of a checkpoint."""
        if checkpoint is not None:
            with np.load(Path(checkpoint) / STATE_FILE) as state:
                self.epoch = int(state["epoch"])
                self._take([state[f"task_{number}"] for number in range(len(self.groups))])

    def _take(self, groups: list[np.ndarray]) -> None:
        self.groups = groups
        self._of_rows = []  # of each task, the group of each row
        for rows, source in zip(groups, self.dataset.sources, strict=True):
            of_rows = np.full(len(source), -1)
            of_rows[rows - source.start] = np.arange(len(rows))[:, None]
            self._of_rows.append(of_rows)

    def _mine(self) -> None:
        began, told = time.monotonic(), []
        found = []
        with self.encoder() as encoder:
            for task, source, groups in zip(self.dataset.tasks, self.dataset.sources, self.groups, strict=True):
                if not len(groups):
                    found.append(groups)
                    continue
                cache = EmbeddingCache(_Share(encoder), None, "", self.batch_size, show_progress=False)
                options = replace(self.options, group_size=groups.shape[1], num_negatives=0)
                mined = mine_task(replace(task, negatives=None), cache, options, groups_needed=len(groups)).grouping
                assert mined is not None
                found.append(source.start + mined.rows)
                told.append(f"  {task.name}: {mined.report()}")
        self._take(distributed.all_gather_object(found)[0])
        if distributed.rank() == 0:
            logger.warning("\n".join([f"Groups mined again in {time.monotonic() - began:.0f} s", *told]))


class _Share:
    """Encodes this rank's share of what all ranks are asked, and gives the whole."""

    def __init__(self, encoder: LlaveEncoder) -> None:
        self.encoder = encoder

    def encode(self, inputs: Sequence[Any], **options: Any) -> np.ndarray:
        world = distributed.world_size()
        places = np.arange(-(-len(inputs) // world) * world) % len(inputs)  # every rank brings as many
        own = places.reshape(world, -1)[distributed.rank()]
        vectors = np.asarray(self.encoder.encode([inputs[place] for place in own.tolist()], **options))
        of_all = distributed.all_gather_object(torch.from_numpy(vectors))
        return torch.cat(of_all).numpy()[: len(inputs)]
