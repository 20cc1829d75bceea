"""The commands on checkpoints of real sizes: seconds, processor time and memory.

    python tests/benchmarks/real_sizes.py [--sizes 0.5B 2B Qwen2-VL-2B] [--folder DIR]

Writes random checkpoints in the published layouts (1.8 to 4.4 GB each), runs every command as a process of its own,
and prints a table. Memory is the process's largest resident set, also as a multiple of the weights in the type that
they are opened in (float32 where the processor does not multiply bfloat16 by itself). The environment is passed on, so
that another processor can be imitated:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 python tests/benchmarks/real_sizes.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from real_sizes_data import SIZES, write_checkpoint
from safetensors import safe_open

from llave_hf.runtime.processor_dtypes import opening_dtype

PICTURES = ((640, 480), (200, 120))


@dataclass(frozen=True)
class Run:
    """What one command took."""

    command: str
    seconds: float
    processor_seconds: float
    peak: float  # GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.5B"], help="default: 0.5B")
    parser.add_argument("--folder", type=Path, help="for checkpoints and outputs (default: a temporary one)")
    parser.add_argument("--commands", nargs="+", help="only these")
    arguments = parser.parse_args()
    print(f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print("| size | command | seconds | processor seconds | peak, GB | of the weights as opened |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for size in arguments.sizes:
            root = (arguments.folder or Path(temporary)) / size
            source = root / "source" if (root / "source").exists() else write_checkpoint(root / "source", size)
            weights = _numbers(source) * opening_dtype(torch.bfloat16, "cpu").itemsize / 1e9
            for run in _runs(root, source, size, arguments.commands):
                row = (
                    f"| {run.seconds:.0f} | {run.processor_seconds:.0f} | {run.peak:.1f} | {run.peak / weights:.2f} |"
                )
                print(f"| {size} | {run.command} {row}", flush=True)
            if arguments.folder is None:
                shutil.rmtree(root)


def _runs(root: Path, source: Path, size: str, only: Sequence[str] | None) -> Iterator[Run]:
    model, stock = root / "model", size == "Qwen2-VL-2B"
    pictures = root / "pictures"
    pictures.mkdir(exist_ok=True)
    for number, (width, height) in enumerate(PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(pictures / f"{number}.png")
    (pictures / "note.txt").write_text("A dog plays in the snow.\n", encoding="utf-8")
    stock_backbone = root / "stock"
    commands: dict[str, list[str | Path]] = {
        "convert": ["convert", source, model],
        "verify": ["verify", model],
        "export": ["export", model, stock_backbone, "--format", "llava_onevision"],
        "init": ["init", "--backbone", source if stock else stock_backbone, root / "initialised"],
        "index": ["index", pictures, "--model", root / "initialised" if stock else model],
        "search": ["search", "a dog in the snow", "--collection", pictures],
    }
    outputs = {
        "convert": model,
        "export": stock_backbone,
        "init": root / "initialised",
        "index": pictures / ".llave_index",
    }
    for name, words in commands.items():
        if (stock and name in ("convert", "verify", "export")) or (only and name not in only):
            continue
        if name in outputs:
            shutil.rmtree(outputs[name], ignore_errors=True)
        yield _run(name, [str(word) for word in words])


def _run(name: str, words: Sequence[str]) -> Run:
    """Runs `llave` and waits; its own words go to standard error."""
    began = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "llave_hf.cli", *words],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)],
    )
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"llave {' '.join(words)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(name, time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e9)


def _numbers(folder: Path) -> int:
    """Parameters of all safetensors files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            total += sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)
    return total


if __name__ == "__main__":
    main()
