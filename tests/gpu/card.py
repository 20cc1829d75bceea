"""The machine that a table is of."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util

import torch

# Dense teraflops a second in bfloat16, from the vendors' data sheets; the first name that is part of the card's.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "4090": 165.0,
    "3090": 71.0,
}
PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "deepspeed", "peft", "llave-hf")


def name_of(device: str) -> str:
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def peak_tflops(device: str, given: float | None) -> float | None:
    """What was given, or what the card's name says; None for a card that is not in the list, and for a CPU."""
    if given is not None or device != "cuda":
        return given
    name = torch.cuda.get_device_name(0)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def versions() -> str:
    names = [name for name in PACKAGES if util.find_spec(name.replace("-", "_"))]
    return ", ".join(f"{name} {metadata.version(name)}" for name in names) + f", Python {platform.python_version()}"
