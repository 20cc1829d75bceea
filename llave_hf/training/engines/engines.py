"""What takes a model to several ranks: DDP, FSDP or DeepSpeed, and what each asks of a training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn

if TYPE_CHECKING:
    from llave_hf.training.trainer import LlaveTrainer


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
    def of(cls, trainer: LlaveTrainer) -> Engine:
        """Of a trainer whose model is on its ranks."""
        accelerator = trainer.accelerator
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            zero = zero_settings(accelerator.state.deepspeed_plugin.deepspeed_config)
            return cls(zero.stage == 3, alike=True, first=zero.stage > 0, last=zero.offloads)
        # The method is FSDP2's: transformers can shard a model itself while loading it, unknown to accelerate.
        fsdp = accelerator.distributed_type == DistributedType.FSDP or is_sharded(trainer.model)
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
