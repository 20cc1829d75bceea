"""LlaveTrainer: transformers' Trainer with LLaVE's loss over the negatives of all devices."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl
from transformers.trainer import TRAINING_ARGS_NAME

from llave_hf.data.collator import LlaveCollator
from llave_hf.data.pairs import PairDataset
from llave_hf.data.sampler import TaskBatchSampler
from llave_hf.encoding import LlaveEncoder
from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss
from llave_hf.modeling_llave import LlaveModel
from llave_hf.processing_llave import LlaveProcessor

from .arguments import LlaveTrainingArguments
from .cached_step import CachedStep
from .optimizer import MuonWithAdamW
from .parts import freeze_parts
from .token_count import TokenCount
from .watch import Watch

if TYPE_CHECKING:
    from llave_hf.evaluation.benchmark import Benchmark


class LlaveTrainer(Trainer):
    """Trains a [`LlaveModel`] on pairs.

    Args:
        model: What to train. Its parts named in `args.freeze` stop receiving gradients.
        args: Training arguments.
        train_dataset: Pairs, from [`llave_hf.data.load_pairs`].
        eval_dataset: A benchmark; `evaluate()` gives precision@1 on its subsets.
        processing_class: The model's processor.
        **kwargs: As [`Trainer`] (`callbacks`, `optimizers`, ...).
    """

    args: LlaveTrainingArguments
    optimizer: Optimizer | None
    control: TrainerControl

    def __init__(
        self,
        model: LlaveModel,
        args: LlaveTrainingArguments,
        train_dataset: PairDataset | None = None,
        eval_dataset: Benchmark | None = None,
        processing_class: LlaveProcessor | None = None,
        **kwargs: Any,
    ) -> None:
        if processing_class is None:
            raise ValueError("LlaveTrainer got no processing_class; pass the model's LlaveProcessor.")
        if args.n_gpu > 1:
            raise ValueError(
                f"one process sees {args.n_gpu} GPUs, which torch's DataParallel would split pairs over; start one "
                "process a GPU: accelerate launch -m llave_hf.train RECIPE."
            )
        freeze_parts(model, args.freeze)
        tasks = [source.name for source in train_dataset.sources] if train_dataset is not None else []
        kwargs.setdefault(
            "data_collator", LlaveCollator(processing_class, args.mini_batch_size, args.mini_batch_num_tokens, tasks)
        )
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.contrastive_loss = HardnessWeightedContrastiveLoss(
            temperature=args.temperature,
            hardness_strength=args.hardness_strength,
            hardness_mode=args.hardness_mode,
            directions=tuple(args.directions),
            gather_across_devices=args.gather_across_devices,
            max_weight=args.max_hardness_weight,
            false_negative_margin=args.false_negative_margin,
            count_duplicates_once=args.count_duplicates_once,
            share_negatives=args.share_negatives,
            matryoshka_dims=tuple(args.matryoshka_dims),
        )
        # The loss is a mean over this device's pairs: Trainer has to divide it by the accumulation steps. Left to
        # itself it would not, because LlaveModel.forward takes **kwargs.
        self.loss_is_scaled_for_ga = False
        self._cached_step: CachedStep | None = None
        self._tokens = TokenCount()
        self.watch = Watch(args, tasks)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of one task over all devices. Trainer's own would shuffle rows over tasks, and be sharded again."""
        if self.train_dataset is None:
            raise ValueError("LlaveTrainer got no train_dataset; pass the pairs of llave_hf.data.load_pairs.")
        sampler = TaskBatchSampler(
            self.train_dataset.sources,
            batch_size=self.args.per_device_train_batch_size,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            batch_tasks=self.args.batch_tasks,
            batch_mix=self.args.batch_mix,
            sampling_temperature=self.args.sampling_temperature,
            contents=self.train_dataset.contents() if self.args.avoid_repeats else None,
            tokens=self._token_estimates(),
        )
        return EpochDataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _token_estimates(self) -> np.ndarray | None:
        """Of each row, where there are ranks to balance."""
        if not self.args.balance_tokens or self.args.world_size == 1:
            return None
        return self.train_dataset.token_estimates(use_negatives=self.args.use_negatives)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Muon beside AdamW where `muon_learning_rate` asks for it (Trainer's `optim` has no such choice)."""
        if self.args.muon_learning_rate is None or self.optimizer is not None:
            return super().create_optimizer(model)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "muon_learning_rate needs whole matrices on every rank; leave it out under FSDP or DeepSpeed."
            )
        made = MuonWithAdamW(
            self.model.named_parameters(),
            muon_lr=self.args.muon_learning_rate,
            adamw_lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
        )
        self.optimizer = made
        return made

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The hardness-weighted contrastive loss of this device's pairs (Trainer's own asks the model for a loss)."""
        distinct = model(micro_batches=inputs["micro_batches"]).embeddings  # (M, D)
        loss, outputs = self._loss_of(distinct, inputs)
        return (loss, outputs) if return_outputs else loss

    def _loss_of(
        self, distinct: torch.Tensor, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the embeddings `(M, D)` of a batch's distinct samples, and those of its B pairs."""
        queries, documents = distinct[inputs["query_index"]], distinct[inputs["document_index"]]  # (B, D) each
        negatives: dict[str, torch.Tensor] = {}
        if self.args.use_negatives and "negative_index" in inputs:
            index = inputs["negative_index"]  # (B, K), -1 where a row has fewer negatives
            negatives = {
                "negative_embeddings": distinct[index.clamp(min=0)],
                "negative_mask": index >= 0,
                "negative_ids": inputs["negative_ids"],
            }
        loss = self.contrastive_loss(
            queries, documents, query_ids=inputs["query_ids"], document_ids=inputs["document_ids"], **negatives
        )
        if self.model.training:
            statistics = self.contrastive_loss.statistics
            share = statistics.masked_share if statistics is not None else None
            self.watch.observe(queries, documents, inputs, negatives, share)
        return loss, {"query_embeddings": queries, "document_embeddings": documents}

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """One forward and backward, by gradient caching where the arguments ask for it.

        Trainer's own holds the graph of the whole batch.
        """
        self._tokens.add(inputs["micro_batches"])
        if not self.args.caches_gradients:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers
            self.optimizer.train()  # type: ignore[union-attr]
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        if self._cached_step is None:
            self._cached_step = CachedStep(self)
        others = self._prepare_inputs({name: value for name, value in inputs.items() if name != "micro_batches"})
        steps = self.current_gradient_accumulation_steps
        return self._cached_step(
            model, inputs["micro_batches"], lambda distinct: self._loss_of(distinct, others)[0] / steps
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to what Trainer logs: telemetry, and `token_fill`, real tokens / padded tokens on this process."""
        if "loss" in logs:
            logs |= self.watch.logs(self.state.global_step)
            if self._tokens:
                logs["token_fill"] = self._tokens.take()
        super().log(logs, start_time)

    def _save_rng_state(self, output_dir: str) -> None:
        """And what else each rank has to go on from: Trainer calls it for every checkpoint."""
        super()._save_rng_state(output_dir)
        self.watch.save_state(output_dir)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        self.watch.load_state(checkpoint)

    def evaluate(
        self,
        eval_dataset: Benchmark | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        output_dir: str | os.PathLike[str] | None = None,
    ) -> dict[str, float]:
        """Precision@1 on a benchmark's subsets and their means (Trainer's own computes a loss over a dataset).

        Args:
            eval_dataset: A benchmark; None takes the trainer's.
            ignore_keys: Not used; Trainer passes it.
            metric_key_prefix: Of the names of the metrics.
            output_dir: Where results.json and its tables are written; None: nowhere.
        """
        from llave_hf.evaluation import evaluate_benchmark

        benchmark = eval_dataset if eval_dataset is not None else self.eval_dataset
        if benchmark is None:
            raise ValueError("LlaveTrainer got no eval_dataset; pass a benchmark to evaluate() or to the trainer.")
        encoder = LlaveEncoder(self.accelerator.unwrap_model(self.model), self.processing_class)
        results = evaluate_benchmark(
            encoder,
            benchmark,
            output_dir=output_dir,
            model_name=os.path.basename(os.path.normpath(self.args.output_dir)),
            batch_size=self.args.per_device_eval_batch_size,
            show_progress=not self.args.disable_tqdm and self.is_world_process_zero(),
        ).to_dict()
        metrics = {f"{metric_key_prefix}_{name}": task["precision_at_1"] for name, task in results["tasks"].items()}
        metrics |= {f"{metric_key_prefix}_mean_{name}": value for name, value in results["means"].items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Saves one folder for AutoModel, AutoProcessor and SentenceTransformer, with the arguments as JSON.

        Trainer's own leaves a pickle of the arguments, which a published folder must not hold.
        """
        super()._save(output_dir, state_dict)
        folder = output_dir if output_dir is not None else self.args.output_dir
        pickled = os.path.join(folder, TRAINING_ARGS_NAME)
        if self.args.should_save and os.path.exists(pickled):
            os.remove(pickled)
            arguments = {**self.args.to_dict(), "negatives_per_query": self.args.negatives_per_query}
            with open(os.path.join(folder, "training_args.json"), "w", encoding="utf-8") as file:
                json.dump(arguments, file, indent=2, default=str)


class EpochDataLoader(DataLoader):
    """A DataLoader that tells its batch sampler the epoch, as Trainer asks of accelerate's loaders."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
