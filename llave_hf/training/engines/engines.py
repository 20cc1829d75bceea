"""The engine that trains a model on several ranks (DDP, FSDP or DeepSpeed), and what it asks of a training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from llave_hf.data.rows.tasks import PairDataset
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.tuning.parts import part_parameters


@dataclass(frozen=True)
class Engine:
    """The engine of a run.

    Attributes:
        spreads: Whether each rank holds a share of every parameter, which a forward gathers from all.
        alike: Whether ranks must run the same parts of the model in the same order: gathering parameters is one
            exchange of all ranks, and so is DeepSpeed's reduction of gradients, in each backward.
        first: Whether the first backward of a batch must reach all that is trained. ZeRO-3's buffers keep the last
            update's gradient: a first backward overwrites what it reaches, and later ones add. Under ZeRO-1 and 2,
            accumulated gradients were found wrong where a batch of texts alone ends an update.
        last: Whether the last one must. DeepSpeed hands an optimizer on the CPU what the last backward reached.
    """

    spreads: bool = False
    alike: bool = False
    first: bool = False
    last: bool = False

    @classmethod
    def of(cls, accelerator: Accelerator, model: nn.Module) -> Engine:
        """Of a run.

        Args:
            accelerator: Of the run.
            model: That is trained, on its ranks already.
        """
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            zero = zero_settings(accelerator.state.deepspeed_plugin.deepspeed_config)
            return cls(zero.stage == 3, alike=True, first=zero.stage > 0, last=zero.offloads)
        # The method is FSDP2's: transformers can shard a model itself while loading it, unknown to accelerate.
        fsdp = accelerator.distributed_type == DistributedType.FSDP or is_sharded(model)
        return cls(spreads=fsdp, alike=fsdp)


@dataclass(frozen=True)
class ZeroSettings:
    """Of DeepSpeed's configuration: the stage, and whether the optimizer is on the CPU or a disk."""

    stage: int
    offloads: bool


def zero_settings(config: dict[str, Any]) -> ZeroSettings:
    """Reads DeepSpeed's configuration."""
    zero = config.get("zero_optimization", {})
    device = (zero.get("offload_optimizer") or {}).get("device")
    return ZeroSettings(zero.get("stage", 0), device not in (None, "none"))


def is_sharded(model: Any) -> bool:
    """Whether FSDP2 has spread a model."""
    return hasattr(model, "set_requires_gradient_sync")


def is_spread(model: Any) -> bool:
    """Whether a rank holds a share of each parameter: by FSDP2, or by ZeRO-3, which marks parameters."""
    return is_sharded(model) or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def reshard(model: nn.Module) -> None:
    """Gives back what FSDP2 leaves gathered after a forward: its outermost share, until a backward."""
    for module in model.modules():
        if is_sharded(module):
            module.reshard()  # type: ignore[operator]


def whole_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a spread model by name, in the order of names, each gathered by itself; all ranks call it."""
    parameters = dict(model.named_parameters())
    for name, tensor in sorted(model.state_dict().items()):
        if hasattr(parameters.get(name), "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameters[name]]):
                yield name, parameters[name].data
        else:
            yield name, tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def can_leave_parameters_unused(model: LlaveModel, args: LlaveTrainingArguments, dataset: Any) -> bool:
    """True where one rank may see a batch of texts alone, and the vision tower or the projector is trained.

    Where it is False, the graph need not be searched in each step.

    Args:
        model: Without wrappers, its frozen parts frozen.
        args: Of the run.
        dataset: Its pairs; of a stream nothing is known beforehand.
    """
    visual = [*part_parameters(model, "vision_tower"), *part_parameters(model, "projector")]
    if not any(parameter.requires_grad for parameter in visual):
        return False
    if args.caches_gradients or args.on_bad_sample == "skip":  # a last micro-batch, or what is left, may be texts
        return True
    if getattr(model.config, "video_newline", None) == "no_token":  # videos leave LLaVA-OneVision's newline out
        return True
    return not (isinstance(dataset, PairDataset) and dataset.all_have_media())
