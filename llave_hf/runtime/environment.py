"""What a bug report needs to know of a machine: `llave env`. Says what is broken instead of breaking on it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .installed import NOT_INSTALLED, extras, one_line, package_state, silence
from .shipped_recipes import recipes_folder
from .version import __version__

PACKAGES = (
    *("torch", "torchvision", "transformers", "sentence-transformers", "accelerate", "datasets", "tokenizers"),
    *("safetensors", "huggingface-hub", "numpy", "pillow", "av", "peft", "bitsandbytes", "deepspeed", "mteb"),
    *("lancedb", "gradio", "fastapi", "uvicorn", "flash-attn"),
)
# Change what runs or where; nothing here can hold a secret.
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "TOKENIZERS_PARALLELISM"),
    *("HF_HUB_OFFLINE", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "PYTORCH_CUDA_ALLOC_CONF"),
)
DTYPES = ("float32", "bfloat16", "float16")


def environment() -> dict[str, Any]:
    """Versions, processor, devices, engines, extras and variables, as JSON can hold them.

    Every package is imported: one that is installed and cannot be is told with its error.
    """
    return {
        "llave_hf": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "recipes": _said(lambda: str(recipes_folder())),
        "packages": {name: package_state(name) for name in PACKAGES},
        "processor": {
            "name": _said(processor_name),
            "cores": _said(_cores),
            "memory": _said(_memory),
            "instructions": _said(_instructions),
            "threads": _said(_threads),
            "multiplies": _said(_multiplied),
        },
        "devices": _said(_devices),
        "engines": _said(_engines),
        "extras": _said(extras),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def as_lines(found: dict[str, Any]) -> list[str]:
    """[`environment`] as a list in Markdown."""
    processor = found["processor"]
    lines = [f"- {name}: {found[name]}" for name in ("llave_hf", "python", "system", "recipes")]
    lines += [f"- {name}: {state}" for name, state in found["packages"].items()]
    lines += [f"- processor: {processor['name']}"]
    lines += [f"  - {name}: {_joined(value)}" for name, value in processor.items() if name != "name"]
    lines += [*_listed("devices", found["devices"]), *_listed("engines", found["engines"])]
    lines += [*_listed("extras", found["extras"]), *_listed("variables", found["variables"])]
    return lines


def processor_name() -> str:
    """As the processor calls itself: from Linux, from macOS, else whatever Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if named:
            return named.group(1)
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def _said(ask: Callable[[], Any]) -> Any:
    """An answer, or why there is none."""
    with silence():
        try:
            return ask()
        except Exception as error:  # of a broken torch, for example; the report goes on
            return f"not known ({one_line(error)})"


def _cores() -> str:
    import psutil

    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return f"{physical} physical, {logical} logical, {usable} usable here"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"


def _instructions() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _multiplied() -> list[str]:
    """The types that the processor multiplies by itself; others are emulated, slowly."""
    import torch

    from .processor_dtypes import cpu_multiplies

    return [name for name in DTYPES if cpu_multiplies(getattr(torch, name))]


def _devices() -> list[str]:
    import torch

    found = []
    kind = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    built = torch.version.hip or torch.version.cuda
    for index in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(index)
        capability = f"compute capability {one.major}.{one.minor}"
        found.append(f"cuda:{index} {one.name}, {one.total_memory / 1e9:.1f} GB, {capability}, {kind}")
    if torch.backends.mps.is_available():
        found.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found += [f"xpu:{index} {torch.xpu.get_device_name(index)}" for index in range(torch.xpu.device_count())]
    return found or [f"the processor alone; torch is built for {kind}" if built else "the processor alone"]


def _engines() -> dict[str, str]:
    from llave_hf.distributed import backends

    found = backends()
    deepspeed = package_state("deepspeed")
    return {
        "DDP": ", ".join(found) if found else "no backend",
        "FSDP2": "available" if found else "no backend",
        "DeepSpeed": f"{deepspeed}: pip install deepspeed" if deepspeed == NOT_INSTALLED else deepspeed,
    }


def _listed(title: str, value: Any) -> list[str]:
    if isinstance(value, str) or not value:
        return [f"- {title}: {value or 'none'}"]
    entries = [f"{name}: {entry}" for name, entry in value.items()] if isinstance(value, dict) else value
    return [f"- {title}:", *(f"  - {entry}" for entry in entries)]


def _joined(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
