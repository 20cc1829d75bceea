"""Arguments of LlaveTrainer: transformers' own, and what contrastive learning adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from .best_metric import aim_schedule, choose_metric, told_of_checkpoints
from .loss_settings import check_loss
from .mining import check_mining
from .trainer_settings import check_parsed_settings, check_trainer_settings
from .tuning import PARTS, STACKS, check_tuning

logger = logging.get_logger(__name__)

_OPTIMIZERS_THAT_STEP_IN_BACKWARD = (
    OptimizerNames.LOMO,
    OptimizerNames.ADALOMO,
    OptimizerNames.GALORE_ADAMW_LAYERWISE,
    OptimizerNames.GALORE_ADAMW_8BIT_LAYERWISE,
    OptimizerNames.GALORE_ADAFACTOR_LAYERWISE,
    OptimizerNames.APOLLO_ADAMW_LAYERWISE,
)

_ADAMW = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


@dataclass
class LlaveTrainingArguments(TrainingArguments):
    """[`TrainingArguments`] with LLaVE's loss, batches and tunable parts.

    `per_device_train_batch_size` is the number of *pairs* that one device puts into a contrastive batch: a query has
    (pairs a device) x (devices) - 1 in-batch negatives. Gradient accumulation adds none. What goes through the model
    at once is `mini_batch_size` or `mini_batch_num_tokens`, which change memory and speed and no result.

    Defaults that differ from the parent's: `remove_unused_columns=False`, because rows are pairs and not model
    inputs; `dataloader_drop_last=True`, because every device must bring as many pairs. Where
    `ddp_find_unused_parameters` is None, LlaveTrainer sets it: a batch of texts leaves the vision tower without
    gradient, and where each pair has a picture there is none.
    """

    # Loss (LLaVE, Eq. 5 and Table 5)
    temperature: float = field(default=0.02, metadata={"help": "Cosines are divided by it. LLaVE: 0.02."})
    temperature_by_task: dict[str, float] | None = field(
        default=None, metadata={"help": "Temperatures of tasks that differ, by name; the others have temperature."}
    )
    learn_temperature: bool = field(
        default=False, metadata={"help": "Whether temperatures are trained, from temperature, within 0.01 and 1."}
    )
    temperature_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the logarithm of the temperature. None: learning_rate."}
    )
    hardness_strength: float = field(
        default=9.0,
        metadata={"help": "LLaVE's alpha: a negative's logit gets alpha * sg(s) added. 0 is InfoNCE."},
    )
    hardness_strength_by_task: dict[str, float] | None = field(
        default=None, metadata={"help": "alpha of tasks that differ, by name; the others have hardness_strength."}
    )
    hardness_warmup_steps: float = field(
        default=0.0, metadata={"help": "alpha rises from 0 over so many steps; below 1: a share of all steps."}
    )
    effective_negatives: float | None = field(
        default=None,
        metadata={"help": "Steer alpha so that (sum w)^2 / sum w^2 comes to this. None: alpha as it is given."},
    )
    hardness_source: str = field(
        default="self",
        metadata={"help": "Whose cosines say how hard a negative is: self (LLaVE), teacher, ema; or column."},
    )
    hardness_teacher: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a frozen model, for a hardness_source or distill_source teacher, or a margin."
        },
    )
    ema_decay: float = field(default=0.999, metadata={"help": "Of the moving average, for hardness_source ema."})
    hardness_mode: str = field(
        default="in_batch_negatives",
        metadata={"help": "Which negatives are weighted: in_batch_negatives, hard_negatives or all_negatives."},
    )
    hardness_reference: str = field(
        default="none",
        metadata={"help": "What hardness is measured from: none (LLaVE), or positive: the query's own positive's."},
    )
    focal_margin: float | None = field(
        default=None,
        metadata={
            "help": "Focal-InfoNCE instead of weights: logits s^2 and s * (s + this). Needs hardness_strength 0."
        },
    )
    contrastive_weight: float = field(default=1.0, metadata={"help": "Of the contrastive loss in the sum."})
    distill_weight: float = field(
        default=0.0,
        metadata={
            "help": "Of the loss of graded labels, over each row's own candidates, in the sum. 0: there is none."
        },
    )
    distill_source: str = field(
        default="column",
        metadata={"help": "Whose grades: column (pos_score, neg_score), or teacher (cosines of hardness_teacher)."},
    )
    teacher_temperature: float | None = field(
        default=None, metadata={"help": "Grades are divided by it before their softmax. None: the temperature."}
    )
    directions: list[str] = field(
        default_factory=lambda: ["query_to_doc", "doc_to_query"],
        metadata={"help": "Both (the published code) or only query_to_doc (the paper's Eq. 8)."},
    )
    gather_across_devices: bool = field(
        default=True, metadata={"help": "Whether a query sees the documents of all devices as negatives."}
    )
    use_negatives: bool = field(
        default=False, metadata={"help": "Whether rows' own negatives (neg_text, neg_image_path) join the loss."}
    )
    max_hardness_weight: float | None = field(
        default=None, metadata={"help": "Cap of a negative's weight e^(alpha * s). None: no cap."}
    )
    false_negative_margin: float | None = field(
        default=None,
        metadata={"help": "Leave out negatives that score above their positive by more than this. None: none."},
    )
    teacher_margin: float | None = field(
        default=None, metadata={"help": "The same in the cosines of hardness_teacher, or of the moving average."}
    )
    margin_strategy: str = field(
        default="absolute",
        metadata={
            "help": "What both margins are counted in: absolute (cosines), relative (shares of the positive's)."
        },
    )
    mask_duplicates: bool = field(
        default=True, metadata={"help": "Pairs with the same query or document are no negatives of each other."}
    )
    mask_equal_labels: bool = field(
        default=True, metadata={"help": "Nor are rows of a task whose column label is equal, where there is one."}
    )
    count_duplicates_once: bool = field(
        default=True,
        metadata={"help": "With mask_duplicates: a document that stands twice in a batch is one negative, not two."},
    )
    share_negatives: bool = field(
        default=False, metadata={"help": "Whether rows' own negatives are negatives of every query, on all devices."}
    )
    compile_loss: bool = field(
        default=False, metadata={"help": "Fuse what the loss does between its matrix products; for GPUs."}
    )
    matryoshka_dims: list[int] = field(
        default_factory=list,
        metadata={
            "help": "The loss is the sum over these widths, the first numbers of each vector; name the whole one too."
        },
    )
    # Batches
    batch_tasks: str = field(
        default="one", metadata={"help": "'one' task in each global batch, or 'mixed': any row beside any other."}
    )
    batch_mix: dict[str, float] | None = field(
        default=None, metadata={"help": "Shares of the tasks in each global batch, with batch_tasks: mixed."}
    )
    sampling_temperature: float = field(
        default=1.0, metadata={"help": "T: a task of n rows is drawn in proportion to its weight * n^(1/T)."}
    )
    batch_groups: bool = field(
        default=False,
        metadata={
            "help": "Batches are whole groups of hard rows, from the column batch_group that llave mine writes."
        },
    )
    mine_every: int = field(
        default=0,
        metadata={"help": "With batch_groups: the model finds the groups again every so many epochs. 0: never."},
    )
    mine_options: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "Of mine_every: group_by, rank_min, rank_max, relative_margin, ... of llave mine."},
    )
    avoid_repeats: bool = field(
        default=True, metadata={"help": "Plan global batches so that no query or document stands in one twice."}
    )
    balance_tokens: bool = field(
        default=True, metadata={"help": "Deal the rows of a global batch so that ranks get about as many tokens."}
    )
    stream_buffer_size: int = field(
        default=10_000, metadata={"help": "With streaming: rows of each task among which the next is drawn."}
    )
    mini_batch_size: int | None = field(
        default=None, metadata={"help": "Most samples that go through the model at once. None: no limit."}
    )
    mini_batch_num_tokens: int | None = field(
        default=None,
        metadata={"help": "Most visual and text tokens that go through the model at once, padding included."},
    )
    gradient_caching: bool | str = field(
        default="auto",
        metadata={
            "help": "Whether one micro-batch at a time holds its graph, so that memory does not grow with the batch; "
            "same gradients, one forward more. 'auto': if mini_batch_size or mini_batch_num_tokens is given."
        },
    )
    graph_memory_gb: float = field(
        default=0.0,
        metadata={
            "help": "With gradient caching: GiB for the graphs of micro-batches that run forward once, not twice. As "
            "much as the largest takes is used anyway, as it costs nothing. Not with FSDP and DeepSpeed."
        },
    )
    vision_memory_gb: float = field(
        default=2.0,
        metadata={
            "help": "GiB for features of a frozen vision tower between the two forwards of gradient caching; beyond "
            "it, and with FSDP, ZeRO-3 or torch_compile, the tower runs twice."
        },
    )
    # Telemetry
    telemetry_every: int = field(
        default=1, metadata={"help": "Look at the cosines of every k-th step, see telemetry.json. 0: never."}
    )
    # Stopping and going on
    on_bad_sample: str = field(
        default="raise",
        metadata={"help": "raise: a sample that cannot be opened ends the run; skip: its pair is left out."},
    )
    max_bad_samples: int | None = field(
        default=None, metadata={"help": "More of them end the run. None: 1 % of the rows, and no fewer than 10."}
    )
    # Optimizer
    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Muon's rate for hidden matrices; the rest keeps AdamW at learning_rate. None: AdamW."},
    )
    # Tunable parts
    freeze: list[str] = field(
        default_factory=list, metadata={"help": f"Parts that are not trained, of {', '.join(PARTS)}."}
    )
    lora: dict[str, Any] | None = field(
        default=None, metadata={"help": "Adapters by PEFT: r, alpha, dropout, parts, modules. None: no adapters."}
    )
    learning_rates: dict[str, float] | None = field(
        default=None, metadata={"help": "Of parts whose rate differs from learning_rate, by name."}
    )
    master_weights: str = field(
        default="float32", metadata={"help": "What trained weights are held in: float32, or bfloat16 (loses updates)."}
    )
    checkpoint_parts: list[str] | None = field(
        default=None,
        metadata={"help": f"What gradient_checkpointing is for, of {', '.join(STACKS)}. None: all."},
    )

    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: rows are pairs."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Must stay True: devices bring equal shares."})
    ddp_find_unused_parameters: bool | None = field(
        default=None, metadata={"help": "None: true where a batch of texts may leave the vision tower unused."}
    )

    def __post_init__(self) -> None:
        # transformers 5.23 deprecates the old names, which are the only ones of earlier releases: both are taken.
        for end in ("", "_kwargs"):
            if getattr(self, f"activation_checkpointing{end}", self) is None:
                setattr(self, f"activation_checkpointing{end}", getattr(self, f"gradient_checkpointing{end}"))
        check_trainer_settings(self)
        choose_metric(self)
        super().__post_init__()
        check_parsed_settings(self)
        aim_schedule(self)
        if told := told_of_checkpoints(self):
            logger.warning(told)
        for name in ("remove_unused_columns", "dataloader_drop_last"):
            required = name == "dataloader_drop_last"
            if getattr(self, name) is not required:
                raise ValueError(f"{name} is {getattr(self, name)}; LlaveTrainer needs {required}: leave it out.")
        if self.batch_tasks not in ("one", "mixed"):
            raise ValueError(f"batch_tasks is {self.batch_tasks!r}; choose 'one' or 'mixed'.")
        check_tuning(self)
        if self.on_bad_sample not in ("raise", "skip"):
            raise ValueError(f"on_bad_sample is {self.on_bad_sample!r}; choose 'raise' or 'skip'.")
        if self.max_bad_samples is not None and self.max_bad_samples < 0:
            raise ValueError(f"max_bad_samples is {self.max_bad_samples}; give 0 or more, or leave it out.")
        self._check_micro_batches()
        check_loss(self)
        self._check_optimizer()
        check_mining(self)
        if self.gradient_accumulation_steps > 1:
            logger.warning(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}: it averages gradients and adds "
                f"no negatives, each query still sees {self.negatives_per_query}. For more negatives raise "
                "per_device_train_batch_size or use more devices."
            )

    def _check_optimizer(self) -> None:
        if self.muon_learning_rate is None:
            return
        if self.optim not in _ADAMW:
            raise ValueError(
                f"optim is {self.optim.value}, and muon_learning_rate trains with Muon and AdamW: leave one of them "
                "out."
            )
        for name in ("optim_args", "optim_target_modules"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for optim, and muon_learning_rate is given instead: leave it out.")

    def _check_micro_batches(self) -> None:
        for name in ("mini_batch_size", "mini_batch_num_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give a positive number or leave it out.")
        if self.gradient_caching not in (True, False, "auto"):
            raise ValueError(f"gradient_caching is {self.gradient_caching!r}; give true, false or auto.")
        for name in ("graph_memory_gb", "vision_memory_gb"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 to spend no memory on it, or more.")
        if not self.caches_gradients:
            return
        if self.optim in _OPTIMIZERS_THAT_STEP_IN_BACKWARD:
            raise ValueError(
                f"optim {self.optim.value} changes weights within each backward, and gradient caching runs several a "
                "step; choose another optimizer or gradient_caching: false."
            )
        if self.ddp_static_graph:
            raise ValueError(
                "ddp_static_graph promises the same graph each time, and micro-batches of texts and of pictures have "
                "two; leave it out or set gradient_caching: false."
            )

    @property
    def device(self) -> torch.device:
        """Of this process. A CPU has no number: torch opens no checkpoint onto `cpu:0`, to which transformers before
        5.18 would take an optimizer's state where two ranks of a CPU go on."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def caches_gradients(self) -> bool:
        """What `gradient_caching` comes to."""
        if self.gradient_caching == "auto":
            return self.mini_batch_size is not None or self.mini_batch_num_tokens is not None
        return bool(self.gradient_caching)

    @property
    def negatives_per_query(self) -> int:
        """In-batch negatives of each query: the pairs of one global batch, less its own."""
        return self.per_device_train_batch_size * (self.world_size if self.gather_across_devices else 1) - 1
