"""The loss of a run as its arguments set it: source of hardness, α and τ at each step, and their saved state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from llave_hf import distributed
from llave_hf.data.described.names import HARDNESS, NEGATIVE_HARDNESS, NEGATIVE_SCORE, SCORE
from llave_hf.data.streaming.tasks import TrainingPairs
from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss
from llave_hf.training.engines.whole_models import whole_models
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recovery.bad_sample_log import BadSampleLog

from .moving_average import Average, MovingAverage
from .spread_average import SpreadAverage, SpreadModel
from .strength import HardnessStrength, by_task
from .teacher import Teacher

logger = logging.get_logger(__name__)

STATE_FILE = "objective.pt"  # of a checkpoint
AVERAGE_FILE = "moving_average.safetensors"
TEACHER_FOLDER = "teacher"  # in the output folder


class Objective:
    """The hardness-weighted loss as a recipe sets it.

    Args:
        args: Of the run.
        tasks: Names of its tasks, in the order that batches number them.
    """

    def __init__(self, args: LlaveTrainingArguments, tasks: Sequence[str]) -> None:
        self.args = args
        temperatures = by_task(args.temperature_by_task, args.temperature, tasks, "temperature")
        self.loss = HardnessWeightedContrastiveLoss(
            temperature=args.temperature if temperatures is None else temperatures,
            hardness_strength=args.hardness_strength,
            hardness_mode=args.hardness_mode,
            directions=tuple(args.directions),
            gather_across_devices=args.gather_across_devices,
            hardness_source=args.hardness_source,
            max_weight=args.max_hardness_weight,
            learn_temperature=args.learn_temperature,
            false_negative_margin=args.false_negative_margin,
            teacher_margin=args.teacher_margin,
            share_negatives=args.share_negatives,
            count_duplicates_once=args.count_duplicates_once and args.mask_duplicates,
            matryoshka_dims=tuple(args.matryoshka_dims),
            compiler="inductor" if args.compile_loss else None,
            track_effective_negatives=args.effective_negatives is not None,
            hardness_reference=args.hardness_reference,
            focal_margin=args.focal_margin,
            margin_strategy=args.margin_strategy,
            contrastive_weight=args.contrastive_weight,
            distill_weight=args.distill_weight,
            distill_source=args.distill_source,
            teacher_temperature=args.teacher_temperature,
        ).to(args.device)
        self.strength = HardnessStrength(args, tasks)
        self.average: Average | None = None
        self._spread: Callable[[], SpreadModel] | None = None
        self.teacher: Teacher | None = None

    def follow(self, model: nn.Module) -> None:
        """Makes the moving average of a model that each rank holds whole, if hardness is to come from one."""
        if self.args.hardness_source == "ema":
            self.average = MovingAverage(model, self.args.ema_decay)

    def follow_spread(self, spread: Callable[[], SpreadModel]) -> None:
        """The same of a model that ranks will hold shares of: its average is made when training begins.

        Args:
            spread: Gives the model; asked when it is on its ranks.
        """
        self._spread = spread

    def begin(self) -> None:
        """Makes the average of a spread model, if there is to be one and is none yet; all ranks call it."""
        if self.args.hardness_source == "ema" and self.average is None and self._spread is not None:
            self.average = SpreadAverage(self._spread(), self.args.ema_decay)

    def teach(self, dataset: TrainingPairs, bad_samples: BadSampleLog) -> None:
        """Encodes the data with the teacher, if there is one and it has not yet; all ranks call it."""
        if self.args.hardness_teacher is None or self.teacher is not None:
            return
        with whole_models():
            self.teacher = Teacher.of(
                self.args.hardness_teacher,
                dataset,
                Path(self.args.output_dir) / TEACHER_FOLDER,
                device=str(self.args.device),
                batch_size=self.args.per_device_eval_batch_size,
                use_negatives=self.args.use_negatives,
                bad_samples=bad_samples,
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimizer: the temperature, where it is learned; weight decay would pull it to 1."""
        rate = self.args.temperature_learning_rate
        rate = self.args.learning_rate if rate is None else rate
        parameters = list(self.loss.parameters())
        return [{"params": parameters, "lr": rate, "weight_decay": 0.0}] if parameters else []

    def __call__(
        self, distinct: torch.Tensor, inputs: Mapping[str, Any], step: int, total_steps: int
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The loss of a batch, and what it was computed from, by the names of the loss's arguments.

        Args:
            distinct: `(M, D)`, embeddings of the batch's distinct samples.
            inputs: As the collator made them; `average_embeddings` `(M, D)` where hardness is a moving average's.
            step, total_steps: Optimizer steps done, and of the run.
        """
        inputs = self._level(inputs)
        indices = self._indices(inputs)
        given: dict[str, Any] = {f"{role}_embeddings": distinct[index.clamp(min=0)] for role, index in indices.items()}
        if "negative" in indices:
            given["negative_mask"] = indices["negative"] >= 0
        given |= self._reference(indices, inputs)
        ids = [f"{role}_ids" for role in indices] if self.args.mask_duplicates else []
        for name in (*ids, "task_ids", "labels" if self.args.mask_equal_labels else "", *self._column_names(indices)):
            if name in inputs:
                given[name] = inputs[name]
        given["hardness_strength"] = self.strength.at(step, total_steps, inputs.get("task_ids"))
        loss = self.loss(**given)
        if self.loss.training:
            self.strength.learn(self.loss.statistics)
        return loss, given

    def _level(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """As many negatives a row on each rank, where ranks exchange them: others are marked as absent."""
        shared = self.args.use_negatives and self.args.share_negatives and self.args.gather_across_devices
        if not shared or distributed.world_size() == 1:
            return inputs
        rows = inputs["query_index"]
        own = inputs["negative_index"].shape[1] if "negative_index" in inputs else 0
        width = int(distributed.all_gather(rows.new_tensor([own])).max())
        absent: dict[str, tuple[float, torch.dtype]] = {
            "negative_index": (-1, rows.dtype),
            "negative_ids": (0, rows.dtype),
        }
        columns = number_columns(self.args)
        for name, column in (("negative_hardness", NEGATIVE_HARDNESS), ("negative_scores", NEGATIVE_SCORE)):
            if column in columns:
                absent[name] = (0.0, torch.float32)
        levelled = dict(inputs)
        for name, (fill, dtype) in absent.items():
            given = inputs.get(name, rows.new_empty((len(rows), 0), dtype=dtype))
            levelled[name] = torch.nn.functional.pad(given, (0, width - own), value=fill)
        if SCORE in columns and "positive_scores" not in levelled:
            levelled["positive_scores"] = rows.new_zeros(len(rows), dtype=torch.float32)
        return levelled if width else inputs

    def _indices(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Rows of the distinct samples, `(B,)` and `(B, K)`, by role."""
        indices = {role: inputs[f"{role}_index"] for role in ("query", "document")}
        if self.args.use_negatives and "negative_index" in inputs:
            indices["negative"] = inputs["negative_index"]
        return indices

    def _column_names(self, indices: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
        of_negatives = ("negative_hardness", "positive_scores", "negative_scores") if "negative" in indices else ()
        return ("document_hardness", *of_negatives)

    def _reference(self, indices: Mapping[str, torch.Tensor], inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Vectors of the teacher or the moving average."""
        if self.average is not None:
            vectors = inputs["average_embeddings"]
            return {f"teacher_{role}_embeddings": vectors[index.clamp(min=0)] for role, index in indices.items()}
        if self.teacher is not None:
            return {f"teacher_{role}_embeddings": self.teacher.embed(inputs[f"{role}_ids"]) for role in indices}
        return {}

    def logs(self) -> dict[str, float]:
        """What changes from step to step, of the last one; all ranks call it."""
        found: dict[str, float] = {}
        if self.args.learn_temperature:
            values = self.loss.temperatures.values
            found["temperature"] = sum(values) / len(values)
        if self.loss.statistics is not None and self.strength.varies:
            found["hardness_strength"] = self.loss.statistics.hardness_strength
        if self.loss.distilled is not None:
            found["distill_loss"] = float(distributed.all_reduce_sum(self.loss.distilled)) / distributed.world_size()
        return found

    def save_state(self, checkpoint: str) -> None:
        """Into a checkpoint; the same on all ranks, so the first one writes."""
        averages = {} if self.average is None else self.average.state_dict()
        if distributed.rank():
            return
        state = {"loss": self.loss.state_dict(), "strength": self.strength.state_dict()}
        if any(state.values()):
            torch.save(state, Path(checkpoint) / STATE_FILE)
        if averages:
            save_file(averages, Path(checkpoint) / AVERAGE_FILE)

    def load_state(self, checkpoint: str | None) -> None:
        """Goes on from a checkpoint."""
        self.begin()
        if checkpoint is None:
            return
        if (Path(checkpoint) / STATE_FILE).exists():
            state = torch.load(Path(checkpoint) / STATE_FILE, weights_only=True)
            self.loss.load_state_dict(state["loss"])
            self.strength.load_state_dict(state["strength"])
        if self.average is not None:
            self.average.load_state_dict(load_file(Path(checkpoint) / AVERAGE_FILE))


def number_columns(args: LlaveTrainingArguments) -> tuple[str, ...]:
    """Columns of numbers that training rows must have."""
    weighs = args.hardness_source == "column"
    in_batch, explicit = args.hardness_mode != "hard_negatives", args.hardness_mode != "in_batch_negatives"
    graded = args.distill_weight > 0 and args.distill_source == "column"
    wanted = {
        HARDNESS: weighs and in_batch,
        NEGATIVE_HARDNESS: weighs and args.use_negatives and (explicit or args.share_negatives),
        SCORE: graded,
        NEGATIVE_SCORE: graded,
    }
    return tuple(column for column, needed in wanted.items() if needed)


class AfterStep(TrainerCallback):
    """What the objective needs before the first step and after each: Trainer knows the model's parameters only."""

    def __init__(self, objective: Objective, dataset: TrainingPairs | None, bad_samples: BadSampleLog) -> None:
        self.objective = objective
        self.dataset = dataset
        self.bad_samples = bad_samples

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.begin()
        if self.dataset is not None:
            self.objective.teach(self.dataset, self.bad_samples)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.loss.zero_grad()
        if self.objective.average is not None:
            self.objective.average.update()
