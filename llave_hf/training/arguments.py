"""Arguments of LlaveTrainer: transformers' own, and what contrastive learning adds."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import logging

logger = logging.get_logger(__name__)

_OPTIMIZERS_THAT_STEP_IN_BACKWARD = (
    OptimizerNames.LOMO,
    OptimizerNames.ADALOMO,
    OptimizerNames.GALORE_ADAMW_LAYERWISE,
    OptimizerNames.GALORE_ADAMW_8BIT_LAYERWISE,
    OptimizerNames.GALORE_ADAFACTOR_LAYERWISE,
    OptimizerNames.APOLLO_ADAMW_LAYERWISE,
)

PARTS = ("vision_tower", "projector", "language_model")


@dataclass
class LlaveTrainingArguments(TrainingArguments):
    """[`TrainingArguments`] with LLaVE's loss, batches and tunable parts.

    `per_device_train_batch_size` is the number of *pairs* that one device puts into a contrastive batch: a query has
    (pairs a device) x (devices) - 1 in-batch negatives. Gradient accumulation adds none. What goes through the model
    at once is `mini_batch_size` or `mini_batch_num_tokens`, which change memory and speed and no result.

    Defaults that differ from the parent's: `remove_unused_columns=False`, because rows are pairs and not model
    inputs; `dataloader_drop_last=True`, because every device must bring as many pairs; and
    `ddp_find_unused_parameters=True`, because a batch of texts leaves the vision tower without gradient.
    """

    # Loss (LLaVE, Eq. 5 and Table 5)
    temperature: float = field(default=0.02, metadata={"help": "Cosines are divided by it. LLaVE: 0.02."})
    hardness_strength: float = field(
        default=9.0,
        metadata={"help": "LLaVE's alpha: a negative's logit gets alpha * sg(s) added. 0 is InfoNCE."},
    )
    hardness_mode: str = field(
        default="in_batch_negatives",
        metadata={"help": "Which negatives are weighted: in_batch_negatives, hard_negatives or all_negatives."},
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
    count_duplicates_once: bool = field(
        default=False,
        metadata={"help": "Whether a document that stands twice in a batch is one negative of the others, not two."},
    )
    share_negatives: bool = field(
        default=False, metadata={"help": "Whether rows' own negatives are negatives of every query, on all devices."}
    )
    matryoshka_dims: list[int] = field(
        default_factory=list, metadata={"help": "The loss is also that of the first so many numbers of each vector."}
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
    avoid_repeats: bool = field(
        default=True, metadata={"help": "Plan global batches so that no query or document stands in one twice."}
    )
    balance_tokens: bool = field(
        default=True, metadata={"help": "Deal the rows of a global batch so that ranks get about as many tokens."}
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
    vision_memory_gb: float = field(
        default=2.0,
        metadata={
            "help": "GiB for features of a frozen vision tower between the two forwards of gradient caching; beyond "
            "it, and with FSDP, DeepSpeed or torch_compile, the tower runs twice."
        },
    )
    # Telemetry
    telemetry_every: int = field(
        default=1, metadata={"help": "Look at the cosines of every k-th step, see telemetry.json. 0: never."}
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

    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: rows are pairs."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Must stay True: devices bring equal shares."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "A batch without pictures leaves the vision tower without gradient."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("remove_unused_columns", "dataloader_drop_last"):
            required = name == "dataloader_drop_last"
            if getattr(self, name) is not required:
                raise ValueError(f"{name} is {getattr(self, name)}; LlaveTrainer needs {required}: leave it out.")
        if self.batch_tasks not in ("one", "mixed"):
            raise ValueError(f"batch_tasks is {self.batch_tasks!r}; choose 'one' or 'mixed'.")
        unknown = sorted(set(self.freeze) - set(PARTS))
        if unknown:
            raise ValueError(f"freeze names {', '.join(unknown)}; the parts are {', '.join(PARTS)}.")
        if set(self.freeze) == set(PARTS):
            raise ValueError("freeze names all parts, which leaves nothing to train; leave one out.")
        self._check_micro_batches()
        if self.gradient_accumulation_steps > 1:
            logger.warning(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}: it averages gradients and adds "
                f"no negatives, each query still sees {self.negatives_per_query}. For more negatives raise "
                "per_device_train_batch_size or use more devices."
            )

    def _check_micro_batches(self) -> None:
        for name in ("mini_batch_size", "mini_batch_num_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give a positive number or leave it out.")
        if self.gradient_caching not in (True, False, "auto"):
            raise ValueError(f"gradient_caching is {self.gradient_caching!r}; give true, false or auto.")
        if self.vision_memory_gb < 0:
            raise ValueError(f"vision_memory_gb is {self.vision_memory_gb}; give 0 to keep nothing, or more.")
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
    def caches_gradients(self) -> bool:
        """What `gradient_caching` comes to."""
        if self.gradient_caching == "auto":
            return self.mini_batch_size is not None or self.mini_batch_num_tokens is not None
        return bool(self.gradient_caching)

    @property
    def negatives_per_query(self) -> int:
        """In-batch negatives of each query: the pairs of one global batch, less its own."""
        return self.per_device_train_batch_size * (self.world_size if self.gather_across_devices else 1) - 1
