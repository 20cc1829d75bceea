"""Which dtypes this CPU multiplies natively.

What it cannot, torch emulates: a product of bfloat16 matrices then takes several times what float32 takes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
# Names of what a processor can do, as `torch.cpu.get_capabilities` and Linux give them; one of them is enough.
_NEEDED: Mapping[torch.dtype, frozenset[str]] = {
    torch.bfloat16: frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    torch.float16: frozenset({"avx512_fp16", "amx_fp16", "fp16_arith", "asimdhp"}),
}
# Values of ONEDNN_MAX_CPU_ISA, by which oneDNN, torch's library for products, is told to leave instructions unused.
_WITHOUT_BFLOAT16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
_WITHOUT_FLOAT16 = _WITHOUT_BFLOAT16 | {"AVX512_CORE_BF16"}


def cpu_multiplies(dtype: torch.dtype) -> bool:
    """Whether products of this floating-point type are the processor's own instructions.

    True for float32 and float64. bfloat16 and float16 count as native only where the processor has matrix or
    dot-product instructions for them and oneDNN, which is what uses them, is there and may. Types that are mere
    storage (8 bits) are never native.
    """
    return dtype in native_dtypes()


def native_dtypes() -> frozenset[torch.dtype]:
    """All floating-point types of which [`cpu_multiplies`] is true."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return _native_dtypes(limit.upper())


@lru_cache
def _native_dtypes(limit: str) -> frozenset[torch.dtype]:
    native = {torch.float32, torch.float64}
    if torch.backends.mkldnn.is_available():
        has = _capabilities()
        barred = {torch.bfloat16: _WITHOUT_BFLOAT16, torch.float16: _WITHOUT_FLOAT16}
        native |= {dtype for dtype, needed in _NEEDED.items() if needed & has and limit not in barred[dtype]}
    return frozenset(native)


def _capabilities() -> frozenset[str]:
    """What the processor can do: from torch where it says so, else from Linux; elsewhere nothing is known."""
    if hasattr(torch.cpu, "get_capabilities"):  # newer than the oldest torch that is supported
        return frozenset(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    flags = next((words for name, _, words in named if name.strip() in ("flags", "Features")), "")
    return frozenset(flags.split())


def opening_dtype(dtype: torch.dtype, device: str | torch.device) -> torch.dtype:
    """What weights that are kept in `dtype` are opened in: float32 on a CPU that would emulate it, else `dtype`."""
    emulated = torch.device(device).type == "cpu" and dtype.is_floating_point and not cpu_multiplies(dtype)
    return torch.float32 if emulated else dtype
