"""The dtypes of weights in training: float32 for those that are trained, whatever they were opened in.

A bfloat16 number has 8 significant bits, so what is added to it is lost when smaller than about 1/512 to 1/256 of it:
at a learning rate of 1e-5 most weights would never move. Trained weights are float32 and products run in bfloat16
(autocast); frozen weights stay as they were opened, which is half the memory.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.utils import logging

from llave_hf.runtime.processor_dtypes import opening_dtype
from llave_hf.training.recipe.arguments import LlaveTrainingArguments

logger = logging.get_logger(__name__)

LOST_SHARE = 1 / 512  # of a bfloat16 number: a smaller addend is always rounded away
_HALF = (torch.float16, torch.bfloat16)


def autocast_dtype(args: TrainingArguments) -> torch.dtype:
    """What products of a run are computed in."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


def emulated(args: TrainingArguments) -> torch.dtype | None:
    """The type of a run's products if the CPU that it trains on does not multiply it by itself, else None."""
    dtype = autocast_dtype(args)
    return None if opening_dtype(dtype, args.device) == dtype else dtype


def set_precision(model: nn.Module, args: LlaveTrainingArguments, *, autocast: bool) -> None:
    """Gives each parameter its dtype, in place. Not for DeepSpeed, which holds float32 copies of its own.

    Args:
        model: On its way to be trained, its frozen parts frozen.
        args: `master_weights`; the learning rate is named in a warning.
        autocast: Whether products run in 16 bits. If not, all of a model is float32.
    """
    if args.master_weights == "bfloat16":
        logger.warning(
            "master_weights is bfloat16: an update below 1/512 of its weight is rounded away, so at learning_rate "
            f"{args.learning_rate:g} weights above {args.learning_rate / LOST_SHARE:g} do not move. It saves memory; "
            "master_weights: float32 trains."
        )
        _cast(list(model.parameters()), (torch.float16, torch.float32), torch.bfloat16)
        return
    _cast([p for p in model.parameters() if p.requires_grad or not autocast], _HALF, torch.float32)
    # Frozen ones too: behind a trained layer they get float32, which the CPU's LayerNorm takes with its like only.
    _cast([p for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()], _HALF, torch.float32)


def _cast(parameters: list[nn.Parameter], old: tuple[torch.dtype, ...], new: torch.dtype) -> None:
    for parameter in parameters:
        if parameter.dtype in old:
            parameter.data = parameter.data.to(new)
