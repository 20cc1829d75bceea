"""Which number types the processor multiplies by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llave_hf.runtime import processor_dtypes
from llave_hf.runtime.processor_dtypes import cpu_multiplies

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _no_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    processor_dtypes._native_dtypes.cache_clear()
    yield
    processor_dtypes._native_dtypes.cache_clear()


def _pretend(monkeypatch: pytest.MonkeyPatch, **capabilities: bool | str) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"architecture": "x86_64", "avx2": True, "f16c": True}, (False, False)),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False}, (False, False)),
        ({"avx512_f": True, "avx512_bf16": True, "avx512_fp16": False}, (True, False)),
        ({"avx512_f": True, "amx_bf16": True, "avx512_fp16": True}, (True, True)),
        ({"architecture": "aarch64", "neon": True}, (False, False)),
        ({"architecture": "aarch64", "neon": True, "bf16": True, "fp16_arith": True}, (True, True)),
    ],
)
def test_processors(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool | str], native: tuple[bool, bool]
) -> None:
    _pretend(monkeypatch, **capabilities)
    assert tuple(map(cpu_multiplies, HALVES)) == native
    assert cpu_multiplies(torch.float32)
    assert cpu_multiplies(torch.float64)
    assert not cpu_multiplies(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("limit", "native"),
    [
        ("AVX2", (False, False)),
        ("avx512_core", (False, False)),
        ("AVX512_CORE_BF16", (True, False)),
        ("AVX512_CORE_AMX", (True, True)),
        ("DEFAULT", (True, True)),
    ],
)
def test_limit_of_onednn(monkeypatch: pytest.MonkeyPatch, limit: str, native: tuple[bool, bool]) -> None:
    _pretend(monkeypatch, avx512_bf16=True, avx512_fp16=True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert tuple(map(cpu_multiplies, HALVES)) == native


def test_torch_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, avx512_bf16=True, avx512_fp16=True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not any(map(cpu_multiplies, HALVES))


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", (True, False)),
        ("processor\t: 0\nflags\t\t: fpu avx2 f16c\n", (False, False)),
        ("processor\t: 0\nFeatures\t: fp asimd fphp asimdhp bf16\n", (True, True)),
        (None, (False, False)),
    ],
)
def test_torch_that_does_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, native: tuple[bool, bool]
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(processor_dtypes, "CPUINFO", file)
    assert tuple(map(cpu_multiplies, HALVES)) == native


def test_real_process_that_may_not() -> None:
    """The limit reaches a fresh process, whatever processor this is."""
    code = "import torch; from llave_hf.runtime.processor_dtypes import cpu_multiplies as multiplies; "
    code += "print(multiplies(torch.bfloat16))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
