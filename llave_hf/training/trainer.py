"""LlaveTrainer: transformers' Trainer with LLaVE's loss over the negatives of all devices."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import TrainerControl

from llave_hf.data.batches.collator import LlaveCollator
from llave_hf.data.rows.tasks import PairDataset
from llave_hf.data.streaming.tasks import TrainingPairs
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.model_identity import weights_revision
from llave_hf.evaluation.benchmark.benchmark import Benchmark
from llave_hf.evaluation.evaluate import evaluate_benchmark
from llave_hf.evaluation.report.page import PageOptions
from llave_hf.evaluation.report.training_weights import recorded_weights
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.training.engines.choice import FSDP, EngineChoice, refuse_impossible
from llave_hf.training.engines.engines import Engine, can_leave_parameters_unused, is_spread, whole_tensors
from llave_hf.training.finish.publishing import PublishingTrainer
from llave_hf.training.objective.objective import AfterStep, Objective, number_columns
from llave_hf.training.objective.spread_average import SpreadModel
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.best_metric import check_metric, choose_metric
from llave_hf.training.recipe.mining import NO_STREAM, mining_options
from llave_hf.training.recovery.bad_sample_log import BadSampleLog
from llave_hf.training.recovery.bad_samples import TracedCollator
from llave_hf.training.recovery.checkpointing import CheckpointingTrainer
from llave_hf.training.recovery.postmortem import PostMortem
from llave_hf.training.recovery.termination import Termination
from llave_hf.training.step.cached_step import CachedStep, engine_of_step
from llave_hf.training.step.grad_cache import Part
from llave_hf.training.step.lean_forward import LeanForward
from llave_hf.training.step.lockstep import in_order, order_parts
from llave_hf.training.step.lockstep_encoding import LockstepEncoder
from llave_hf.training.step.trial import MicroBatch
from llave_hf.training.telemetry.watch import Watch
from llave_hf.training.tuning.activation_checkpoints import CheckpointParts
from llave_hf.training.tuning.lora import save_beside_adapter, tuned_model, without_peft
from llave_hf.training.tuning.optimizer import MuonWithAdamW, set_part_rates
from llave_hf.training.tuning.precision import set_precision

from .batches import TokenCount, count_tokens, train_dataloader
from .mined_groups import MinedGroups
from .trainer_calls import check_trainer_calls


class LlaveTrainer(PublishingTrainer, CheckpointingTrainer):
    """Trains a [`LlaveModel`] on pairs.

    Args:
        model: What to train. Its parts named in `args.freeze` stop receiving gradients.
        args: Training arguments.
        train_dataset: Pairs, from [`llave_hf.data.load_pairs`] or [`llave_hf.data.stream_pairs`].
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
        train_dataset: TrainingPairs | None = None,
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
        check_trainer_calls(LlaveTrainer)
        refuse_impossible(args)
        choose_metric(args, kwargs.get("callbacks") or ())
        check_metric(args, eval_dataset)
        align_special_tokens(model, processing_class)
        model.config.matryoshka_dimensions = sorted(args.matryoshka_dims, reverse=True) or None
        model = tuned_model(model, args)
        tasks = [source.name for source in train_dataset.sources] if train_dataset is not None else []
        limits = args.mini_batch_size, args.mini_batch_num_tokens
        columns = number_columns(args)
        collator = LlaveCollator(processing_class, *limits, tasks, columns, as_bytes=True)
        self.bad_samples = bad = BadSampleLog(args, 0 if train_dataset is None else len(train_dataset))
        traced = TracedCollator(collator, train_dataset, skip=bad.on, unusable=bad.unusable)
        kwargs.setdefault("data_collator", traced)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if args.ddp_find_unused_parameters is None and self.accelerator.ddp_handler is not None:
            unused = can_leave_parameters_unused(without_peft(model), args, train_dataset)
            self.accelerator.ddp_handler.find_unused_parameters = unused
        if EngineChoice.of_environment().engine == FSDP and not self.is_fsdp_enabled:
            raise ValueError(
                f"accelerate leaves FSDP out on {args.device.type}, so each process would hold the whole model; use "
                "DDP there (recipes/accelerate/cpu.yaml)."
            )
        self.opened_dtype: torch.dtype = self.model.dtype
        if not self.is_deepspeed_enabled:
            set_precision(self.model, args, autocast=self.accelerator.mixed_precision != "no")
        self.add_callback(CheckpointParts())
        self.objective = Objective(args, tasks)
        if self.is_fsdp_enabled:
            self.objective.follow_spread(self._spread_model)
        else:
            self.objective.follow(self.model)
        self.add_callback(AfterStep(self.objective, train_dataset, self.bad_samples))
        self.termination = Termination()
        self.add_callback(self.termination)
        # The loss is a mean over this device's pairs: Trainer has to divide it by the accumulation steps. Left to
        # itself it would not where rows have labels, because LlaveModel.forward takes **kwargs. transformers 5.19 has
        # given that the second name; before it has the first.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._cached_step: CachedStep | None = None
        self._tokens = TokenCount()
        self.watch = Watch(args, tasks)
        self.kept = (self.watch, self.objective, self.bad_samples)
        self.mined: MinedGroups | None = None
        if args.mine_every and train_dataset is not None:
            self._mine_groups(train_dataset)
        self.post_mortem = PostMortem(
            self, tasks, output_dir=args.output_dir, processor=processing_class, loss=self.objective.loss
        )

    def _mine_groups(self, dataset: TrainingPairs) -> None:
        if not isinstance(dataset, PairDataset):
            raise ValueError(NO_STREAM)
        options = mining_options(self.args.mine_options)
        size = self.args.per_device_eval_batch_size
        self.mined = MinedGroups(dataset, self.args.mine_every, options, self._encoding, size)
        self.add_callback(self.mined)
        self.kept = (*self.kept, self.mined)

    @contextmanager
    def _encoding(self) -> Iterator[LlaveEncoder]:
        """An encoder with the weights of the moment."""
        was_training = self.model.training
        model = without_peft(self.accelerator.unwrap_model(self.model))
        try:
            with self.accelerator.autocast():
                yield LlaveEncoder(model, self.processing_class)
        finally:
            self.model.train(was_training)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of one task over all devices. Trainer's own would shuffle rows over tasks, and be sharded again."""
        if self.train_dataset is None:
            raise ValueError("LlaveTrainer got no train_dataset; pass the pairs of llave_hf.data.load_pairs.")
        return train_dataloader(self.args, self.train_dataset, self.data_collator)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Muon beside AdamW where `muon_learning_rate` asks for it (Trainer's `optim` has no such choice)."""
        if self.args.muon_learning_rate is None or self.optimizer is not None:
            fresh = self.optimizer is None
            optimizer = super().create_optimizer(model)
            if fresh:
                set_part_rates(optimizer, self.model, self.args.learning_rates, learning_rate=self.args.learning_rate)
            for group in self.objective.parameter_groups() if fresh else ():
                optimizer.add_param_group(group)
            return optimizer
        made = MuonWithAdamW(
            self.model.named_parameters(),
            muon_lr=self.args.muon_learning_rate,
            adamw_lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
            eps=self.args.adam_epsilon,
            adamw_groups=self.objective.parameter_groups(),
        )
        set_part_rates(made, self.model, self.args.learning_rates, learning_rate=self.args.learning_rate)
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
        parts = self._parts(inputs["micro_batches"])
        with self.lean.of_micro_batches([self.model_input(part.inputs) for part in parts]) as micro_batches:
            distinct = in_order(model(micro_batches=micro_batches).embeddings, parts)  # (M, D)
        loss, outputs = self._loss_of(distinct, inputs)
        return (loss, outputs) if return_outputs else loss

    def _parts(self, micro_batches: Sequence[MicroBatch]) -> list[Part]:
        """What one forward runs: where ranks must run alike, as much of each kind on each of them."""
        if not self.step_engine.alike:
            return [Part(micro_batch, place) for place, micro_batch in enumerate(micro_batches)]
        device = self.args.device
        return order_parts(micro_batches, self.processing_class, self.step_engine, device=device, backwards=False)

    @functools.cached_property
    def step_engine(self) -> Engine:
        """What the engine asks of the order of micro-batches; known when the model is on its ranks."""
        return engine_of_step(self.accelerator, self.model)

    def _spread_model(self) -> SpreadModel:
        """The model once it is on its ranks."""
        return SpreadModel(
            self.model, self.model_wrapped, self.processing_class, self.step_engine, device=self.args.device
        )

    def model_input(self, micro_batch: MicroBatch) -> MicroBatch:
        """One of the collator's micro-batches on the device, its pixels as floats."""
        return self.processing_class.normalised(self._prepare_input(micro_batch))

    @functools.cached_property
    def lean(self) -> LeanForward:
        """What a forward leaves out; a model that is spread over ranks or compiled runs as it is."""
        whole = not self.step_engine.spreads and not self.args.torch_compile
        return LeanForward(self.model, self.model_input) if whole else LeanForward()

    def _loss_of(
        self, distinct: torch.Tensor, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of the embeddings `(M, D)` of a batch's distinct samples, and those of its B pairs."""
        self.post_mortem.check_embeddings(distinct)
        loss, given = self.objective(distinct, inputs, self.state.global_step, self.state.max_steps)
        if self.model.training:
            self.watch.observe(given, self.objective.loss, inputs.get("group_ids"))
        return loss, {name: given[name] for name in ("query_embeddings", "document_embeddings")}

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """One forward and backward, by gradient caching where the arguments ask for it.

        Trainer's own holds the graph of the whole batch.
        """
        self.bad_samples.take(inputs, self.state.global_step + 1)
        self.post_mortem.begin(inputs)
        self._tokens.add(inputs["micro_batches"])
        if self.mined is not None and "pairs" in inputs:  # the collator knows those that the data brought
            inputs = {**inputs, "group_ids": self.mined.group_ids(inputs["pairs"])}
        if self.objective.average is not None:
            context = self.compute_loss_context_manager()
            vectors = self.objective.average.embed(inputs["micro_batches"], self.model_input, context)
            inputs = {**inputs, "average_embeddings": vectors}
        if not self.args.caches_gradients:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers
            self.optimizer.train()  # type: ignore[union-attr]
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        if self._cached_step is None:
            self._cached_step = CachedStep(
                self.model,
                self.processing_class,
                self.accelerator,
                self.args,
                engine=self.step_engine,
                lean=self.lean,
                prepare=self.model_input,
            )
        others = self._prepare_inputs({name: value for name, value in inputs.items() if name != "micro_batches"})
        steps = self.current_gradient_accumulation_steps
        return self._cached_step(
            model, inputs["micro_batches"], lambda distinct: self._loss_of(distinct, others)[0] / steps
        )

    def _track_num_input_tokens(self, inputs: Mapping[str, Any]) -> None:
        """Of all micro-batches and ranks; Trainer's own looks for one tensor of ids."""
        if self.args.include_num_input_tokens_seen != "no":
            real, padded = count_tokens(inputs["micro_batches"])
            seen = real if self.args.include_num_input_tokens_seen == "non_padding" else padded
            of_ranks = self.accelerator.gather(torch.tensor([seen], device=self.args.device))
            self.state.num_input_tokens_seen += int(of_ranks.sum())

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | float | None = None) -> torch.Tensor | float:
        """Of the finished gradient, before the update; stops where it is not finite."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.post_mortem.check_gradient(norm, scaled=self.accelerator.scaler is not None)
        return norm

    def gradients_again(self, batches: Sequence[dict[str, Any]]) -> float | None:
        """The gradient of these batches once more; the loss of the last. Not under DeepSpeed, which keeps none."""
        if self.is_deepspeed_enabled:
            return None
        loss = None
        self.model_wrapped.zero_grad()
        for batch in batches:
            loss = float(self.training_step(self.model_wrapped, dict(batch)))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to what Trainer logs: telemetry, and `token_fill`, real tokens / padded tokens on this process."""
        if "loss" in logs:
            logs |= self.watch.logs(self.state.global_step) | self.objective.logs() | self.bad_samples.logs()
            if self._tokens:
                logs["token_fill"] = self._tokens.take()
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Benchmark | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        output_dir: str | os.PathLike[str] | None = None,
    ) -> dict[str, float]:
        """Precision@1 on a benchmark's subsets and their means (Trainer's own computes a loss over a dataset).

        A model that is spread over ranks stays so: they encode in step, and no rank holds it whole.

        Args:
            eval_dataset: A benchmark; None takes the trainer's.
            ignore_keys: Not used; Trainer passes it.
            metric_key_prefix: Of the names of the metrics.
            output_dir: Where results.json, its tables and report.html are written; None: nowhere.
        """
        benchmark = eval_dataset if eval_dataset is not None else self.eval_dataset
        if benchmark is None:
            raise ValueError("LlaveTrainer got no eval_dataset; pass a benchmark to evaluate() or to the trainer.")
        model = without_peft(self.accelerator.unwrap_model(self.model))
        encoder = LlaveEncoder(model, self.processing_class)
        revision = None
        if is_spread(self.model):
            encoder = LockstepEncoder(model, self.processing_class, self.model_wrapped)
            revision = weights_revision(encoder, model, whole_tensors(model))
        with self.accelerator.autocast():  # frozen and trained parts may have different dtypes
            results = evaluate_benchmark(
                encoder,
                benchmark,
                output_dir=output_dir,
                model_revision=revision,
                model_name=os.path.basename(os.path.normpath(self.args.output_dir)),
                batch_size=self.args.per_device_eval_batch_size,
                show_progress=not self.args.disable_tqdm and self.is_world_process_zero(),
                page=PageOptions(weights=recorded_weights(vars(self.args), "From the run that was evaluated.")),
            ).to_dict()
        metrics = {f"{metric_key_prefix}_{name}": task["precision_at_1"] for name, task in results["tasks"].items()}
        metrics |= {f"{metric_key_prefix}_mean_{name}": value for name, value in results["means"].items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """And beside an adapter what sentence-transformers opens it by, which PEFT does not write."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_beside_adapter(self.model, output_dir or self.args.output_dir)


def align_special_tokens(model: LlaveModel, processor: LlaveProcessor) -> None:
    """Writes into the text model's configuration what the tokenizer ends, begins and pads with.

    Trainer does so, too, and warns on every rank; no embedding depends on it.
    """
    config = model.config.get_text_config()
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        wanted, given = getattr(processor.tokenizer, name), getattr(config, name, None)
        several = isinstance(given, (list, tuple)) and wanted in given
        if wanted is not None and wanted != given and not several:
            setattr(config, name, wanted)
