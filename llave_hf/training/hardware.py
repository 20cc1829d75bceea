"""What a run computes on."""

from __future__ import annotations

import torch
from transformers import TrainingArguments


def hardware_name(args: TrainingArguments) -> str:
    """What a run computes on, for its card: `2 x NVIDIA H200`."""
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type.upper()
    return f"{args.world_size} x {name}"
