"""FSDP2 and ZeRO-3 by `accelerate launch` with the shipped configurations, on one process, beside no engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import util
from pathlib import Path

from helpers import write_recipe, write_training_data
from rows import FAILED, OK, SKIPPED, Row, Setting, bounded

ROOT = Path(__file__).absolute().parents[2]
WORKER = ROOT / "tests" / "distributed" / "engine_worker.py"
STEPS = 4
NAMES = {"fsdp2": "FSDP2", "zero3": "ZeRO-3"}
TOLERANCE = {True: 0.02, False: 1e-4}  # of a loss in bfloat16 on a GPU, in float32 on a CPU
# What DeepSpeed needs where its accelerator is the CPU.
ON_CPU = ("--use_cpu", "false", "--ddp_backend", "gloo")


def rows(setting: Setting) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_training_data(root)
        write_recipe(
            root,
            use_cpu=not setting.on_gpu,
            bf16=setting.on_gpu,  # on a CPU not under DeepSpeed
            max_steps=STEPS,
            save_strategy="no",
            mini_batch_num_tokens=64,
            gradient_checkpointing=True,
        )
        error = run(root, setting, None)
        if error:
            yield Row("no engine", error, f"{STEPS} steps", FAILED)
            return
        expected = losses(root / "plain")
        for engine, name in NAMES.items():
            if engine == "zero3" and util.find_spec("deepspeed") is None:
                yield Row(name, "deepspeed is not installed", f"{STEPS} steps", SKIPPED)
                continue
            error = run(root, setting, engine)
            if error:
                yield Row(name, error, f"{STEPS} steps", FAILED)
                continue
            found = losses(root / engine)
            said = ", ".join(f"{loss:.3f}" for loss in found)
            yield Row(f"{name}, losses of {STEPS} steps", said, f"{STEPS}", OK if len(found) == STEPS else FAILED)
            apart = max(abs(one / other - 1) for one, other in zip(found, expected, strict=True))
            yield bounded(f"{name}, losses beside those without an engine", apart, TOLERANCE[setting.on_gpu])
            files = ("model.safetensors", "modeling_llave.py", "processor_config.json")
            missing = ", ".join(file for file in files if not (root / engine / file).exists())
            said, verdict = (f"lacks {missing}", FAILED) if missing else ("whole", OK)
            yield Row(f"{name}, finished folder", said, "whole", verdict)


def run(root: Path, setting: Setting, engine: str | None) -> str:
    """Trains; what went wrong, or nothing."""
    overrides = ["--output_dir", str(root / (engine or "plain"))]
    launcher = [sys.executable]
    if engine is not None:
        launcher += ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--num_processes", "1"]
        launcher += ["--config_file", str(ROOT / f"recipes/accelerate/{engine}.yaml")]
        launcher += [] if setting.on_gpu else ["--mixed_precision", "no"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = ["-m", "llave_hf.train", str(root / "recipe.yaml"), *overrides]
    if not setting.on_gpu:  # accelerate passes over FSDP on a CPU, so a worker tells it that this is none
        environment["DS_ACCELERATOR"] = "cpu"
        overrides += ON_CPU if engine == "zero3" else ()
        runs = root / "runs.json"
        runs.write_text(json.dumps([[str(root / "recipe.yaml"), *overrides]]))
        program = [str(WORKER), str(runs)]
    done = subprocess.run([*launcher, *program], capture_output=True, text=True, env=environment, check=False)
    sys.stdout.write(done.stdout[-4000:] + done.stderr[-4000:])
    if not done.returncode:
        return ""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if "Error" in line]
    return f"exit code {done.returncode}: {lines[0].strip()[:300] if lines else 'see the log'}"


def losses(folder: Path) -> list[float]:
    logged = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in logged if "loss" in entry]
