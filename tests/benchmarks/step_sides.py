"""The two libraries of `step.py`: trainers of the same model on the same pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from step_clock import PHASES, Clock
from step_data import as_stock_input
from transformers import PrinterCallback

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.data.rows.tasks import PairDataset
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.step import grad_cache
from llave_hf.training.trainer import LlaveTrainer
from llave_hf.training.tuning.parts import freeze_parts

TEMPERATURE = 0.02


class Limit(NamedTuple):
    """Of a mini-batch: samples or tokens, of which the one that is None does not limit."""

    size: int | None = None
    tokens: int | None = None

    def __str__(self) -> str:
        return f"{self.tokens} tokens" if self.tokens else str(self.size)


DEFAULT = Limit(size=32)  # sentence-transformers'


def common_arguments(folder: Path, pairs: int, steps: int, device: str, bf16: bool) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": pairs,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "seed": 0,
        "use_cpu": device == "cpu",
        "bf16": bf16,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_drop_last": True,
    }


class Side:
    """A trainer of one library. `model` is the [`LlaveModel`] in it."""

    model: LlaveModel
    trainer: Any

    def __init__(self) -> None:
        self.clock = Clock()

    def set_limit(self, limit: Limit) -> None:
        """Cuts mini-batches so."""
        raise NotImplementedError

    def turn(self) -> dict[str, float]:
        """Seconds a pair of one `train()`, by phase."""
        self.trainer.remove_callback(PrinterCallback)  # else it prints each loss
        self.trainer.train()
        pairs = self.trainer.args.max_steps * self.trainer.args.per_device_train_batch_size
        return {phase: self.clock.spent[phase] / pairs for phase in PHASES}

    def first_loss(self) -> float:
        return next(entry["loss"] for entry in self.trainer.state.log_history if "loss" in entry)


class Ours(Side):
    """`LlaveTrainer`, with gradient caching."""

    def __init__(
        self,
        folder: Path,
        data: PairDataset,
        frozen: bool,
        pairs: int,
        steps: int,
        device: str = "cpu",
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.model = LlaveModel.from_pretrained(folder / "model")
        arguments = LlaveTrainingArguments(
            **common_arguments(folder, pairs, steps, device, bf16),
            temperature=TEMPERATURE,
            hardness_strength=0,
            batch_tasks="mixed",
            mini_batch_size=DEFAULT.size,
            freeze=["vision_tower"] if frozen else [],
        )
        processor = LlaveProcessor.from_pretrained(folder / "model")
        self.trainer = LlaveTrainer(self.model, arguments, data, processing_class=processor, callbacks=[self.clock])
        self.collator = self.trainer.data_collator
        self.trainer.data_collator = self.clock.around("data", self.collator)
        self.clock.watch(self.model)

    def set_limit(self, limit: Limit) -> None:
        self.collator.collator.limits |= {"mini_batch_size": limit.size, "mini_batch_num_tokens": limit.tokens}

    def keep_graphs(self, mib: float) -> None:
        """Lets micro-batches whose graphs take so much run forward once."""
        self.trainer.args.graph_memory_gb = mib / 1024
        self.trainer._cached_step = None  # it asked at its first step

    def batches(self) -> list[list[int]]:
        """The rows of each batch, as `LlaveTrainer` plans them."""
        return list(self.trainer.get_train_dataloader().batch_sampler)

    def turn(self) -> dict[str, float]:
        plain = grad_cache._gradients_of_embeddings
        grad_cache._gradients_of_embeddings = self.clock.around("loss", plain)
        try:
            return super().turn()
        finally:
            grad_cache._gradients_of_embeddings = plain

    @torch.no_grad()
    def embeddings(self, rows: list[int]) -> torch.Tensor:
        """`(2 B, D)`: queries, then documents."""
        batch = self.collator([self.trainer.train_dataset[row] for row in rows])
        taken = [self.trainer.model_input(one) for one in batch["micro_batches"]]
        distinct = self.model.eval()(micro_batches=taken).embeddings
        return torch.cat((distinct[batch["query_index"]], distinct[batch["document_index"]]))


class Batches(torch.utils.data.BatchSampler):
    """A plan made before."""

    def __init__(self, plan: list[list[int]]) -> None:
        self.plan, self.batch_size, self.drop_last, self.sampler = plan, len(plan[0]), True, None

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


class Theirs(Side):
    """`SentenceTransformerTrainer` with its cached loss, on the batches of `plan`.

    Args:
        remedy: Whether to apply `cut_mixed_columns`.
    """

    def __init__(
        self,
        folder: Path,
        data: PairDataset,
        frozen: bool,
        plan: list[list[int]],
        steps: int,
        remedy: bool = True,
        device: str = "cpu",
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = SentenceTransformer(str(folder / "model"), device=device)
        self.model = self.encoder[0].auto_model
        freeze_parts(self.model, ["vision_tower"] if frozen else [])
        if remedy:
            cut_mixed_columns(self.encoder)
        self.loss = CachedMultipleNegativesRankingLoss(
            self.encoder,
            scale=1 / TEMPERATURE,
            mini_batch_size=DEFAULT.size,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )
        arguments = SentenceTransformerTrainingArguments(
            **common_arguments(folder, len(plan[0]), steps, device, bf16),
            batch_sampler=lambda dataset, **_: Batches(plan),
        )
        pairs = [data[row] for row in range(len(data))]
        self.inputs = [(as_stock_input(pair.query), as_stock_input(pair.positive)) for pair in pairs]
        self.trainer = SentenceTransformerTrainer(
            self.encoder, arguments, self._columns(), loss=self.loss, callbacks=[self.clock]
        )
        collator = self.trainer.data_collator
        collator.preprocess_fn = self.clock.around("data", collator.preprocess_fn)
        self.loss.calculate_loss = self.clock.around("loss", self.loss.calculate_loss)
        self.clock.watch(self.model)

    def set_limit(self, limit: Limit) -> None:
        """Tokens leave the size at its default: the loss is computed for so many rows at a time."""
        self.loss.mini_batch_size = limit.size or DEFAULT.size
        self.loss.mini_batch_num_tokens = limit.tokens

    def _columns(self) -> datasets.Dataset:
        """Texts and dictionaries in one column, which Arrow has no type for."""
        rows = datasets.Dataset.from_dict({"query": range(len(self.inputs)), "document": range(len(self.inputs))})

        def look_up(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            return {
                "query": [self.inputs[row][0] for row in batch["query"]],
                "document": [self.inputs[row][1] for row in batch["document"]],
            }

        rows.set_transform(look_up)
        return rows

    def embeddings(self, rows: list[int]) -> torch.Tensor:
        """As [`Ours.embeddings`]."""
        columns = [[self.inputs[row][side] for row in rows] for side in (0, 1)]
        return torch.cat([self.encoder.encode(column, convert_to_tensor=True) for column in columns])


def cut_mixed_columns(encoder: SentenceTransformer) -> None:
    """Lets sentence-transformers cut columns of texts and pictures into mini-batches.

    It cuts `image_num_tiles` by rows, as it knows nothing of it, and the other inputs of pictures by pictures. So the
    model is told instead, within its forward, that each picture is one tile.
    """
    preprocess = encoder[0].preprocess

    def without_tiles(*args: Any, **kwargs: Any) -> Any:
        features = preprocess(*args, **kwargs)
        features.pop("image_num_tiles", None)
        return features

    def with_tiles(module: Any, args: tuple[dict[str, Any], ...]) -> None:
        if (pixels := args[0].get("pixel_values")) is not None:
            args[0]["image_num_tiles"] = torch.ones(len(pixels), dtype=torch.long)

    encoder[0].preprocess = without_tiles
    encoder[0].register_forward_pre_hook(with_tiles)
