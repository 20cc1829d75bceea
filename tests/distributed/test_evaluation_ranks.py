"""Evaluations over real processes, started as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import picture, tiny_model

from llave_hf.evaluation import evaluate_benchmark

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "evaluation"))

from evaluation_helpers import make_row, write_benchmark  # noqa: E402
from evaluation_worker import Counting  # noqa: E402

MARK = "<|image_1|>\nRepresent the given image.\n"


def launch(*arguments: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` on the CPU. `--cpu --num_processes 2` would start one process."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(ranks)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["--multi_gpu"] if ranks > 1 else []
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=240, check=False
    )


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    model, processor = tiny_model()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for number in range(6):
        picture(20 + number, 24, seed=number).save(tmp_path / f"{number}.png")
    pictures = [f"{number}.png" for number in range(6)]
    rows = {
        "Words": [make_row(f"query {n}", [f"word {n + m}" for m in range(5 + n % 2)]) for n in range(40)],
        "Pictures": [make_row(f"find {n}", [MARK] * 6, target_images=pictures[n:] + pictures[:n]) for n in range(6)],
    }
    path = write_benchmark(tmp_path, rows, {"Pictures": {"pool": "global"}})
    written = []
    for ranks in (1, 2):
        output = tmp_path / f"of{ranks}"
        arguments = [str(tmp_path / "model"), "--benchmark", str(path), "--output", str(output)]
        done = launch("-m", "llave_hf.evaluate", *arguments, ranks=ranks)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Written to") == 1
        written.append([(output / name).read_bytes() for name in ("results.json", "per_query.safetensors")])
    assert written[0] == written[1]
    assert json.loads(written[0][0])["model_revision"].startswith("sha256:")


def test_killed_run_goes_on_over_two_processes(tmp_path: Path) -> None:
    rows = [make_row(f"query {n}", [f"word {n + m}" for m in range(9)]) for n in range(120)]
    path = write_benchmark(tmp_path, {"A": rows})
    total = 120 + 128
    worker = str(ROOT / "tests" / "evaluation" / "evaluation_worker.py")

    def run(name: str, cache: str, lives: int) -> tuple[int, list[int]]:
        done = launch(worker, str(path), str(tmp_path / name), str(tmp_path / cache), str(lives), str(total // 2))
        seen = [int((tmp_path / f"{name}-{rank}.seen").read_text()) for rank in (0, 1)]
        return done.returncode, seen

    code, killed = run("killed", "cache", 48)
    assert code != 0 and killed == [total // 2, 48] and not (tmp_path / "killed").exists()
    code, resumed = run("resumed", "cache", 10**6)
    assert code == 0
    # the killed rank had written three pieces of 16; the other one had finished its share and waited
    assert resumed == [0, total // 2 - 48]
    alone = Counting(tmp_path / "alone.seen", 10**6)
    evaluate_benchmark(alone, path, output_dir=tmp_path / "alone", show_progress=False, model_revision="v1")
    for name in ("results.json", "per_query.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
