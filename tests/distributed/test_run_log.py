"""All that a run of two processes prints, and the whole quickstart: what a person needs, and no other line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llave_hf.data.scenes import write_scenes
from llave_hf.sweep.launching import Launch

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny.yaml"
ALLOWED = (
    r"\S+ holds no checkpoint to go on from; training starts at the beginning\.",
    # The summary
    r"llave_hf trains \S+",
    r"  (model|data|devices|batch|negatives|loss|tokens|memory|steps) +\S.*",
    # Bars
    r" *\d+%\|.*\| \d+/\d+ \[.*\]",
    r"(Encoding|Scoring): +\d+%\|.*\| \d+/\d+ \[.*\]",
    # Metrics
    r"\{'loss': .*\}",
    r"\{'train_runtime': .*\}",
    r"step \d+: .*",  # telemetry's findings
    r"precision@1 in %",
    r"  (Scene|mean_)\w+ +\d+\.\d",
    # Where things are
    r"Written",
    r"  (model|card|report) +\S+",
)
QUICKSTART = (
    r"Drawing [\d,]+ training pairs and \d+ questions: \S+",
    r"Training, (first|second) lesson: .*",
    r"ACCELERATE_USE_CPU=1 accelerate launch .* -m llave_hf\.train .*",
    r"precision@1 in % +chance +before +after",
    r"Scene\w+ +\d+\.\d +\d+\.\d +\d+\.\d",
    r"The 5 of \d+ new pictures nearest to each question:",
    r"  \d of 5 right  .*",
    r"(Model|Card|Answers|Scores) +\S+",
    r"Took +\d+ s",
    r"Go on:",
    r"  \S*(llave|accelerate) .*",
)
ONCE = ("holds no checkpoint", "llave_hf trains", "  negatives ", "'train_runtime'", "precision@1 in %", "Written")

ACCUMULATES = "gradient_accumulation_steps is 2: it averages gradients and adds no negatives"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("options", [(), ("--mini_batch_size", "4", "--gradient_accumulation_steps", "2")], ids=str)
def test_a_run_prints_what_a_person_needs(tmp_path: Path, options: tuple[str, ...]) -> None:
    scenes = tmp_path / "scenes"
    write_scenes(scenes, train_pairs=120, eval_queries=28)
    command = [*Launch(processes=2).command, "llave_hf.train", str(RECIPE), "--train_data", str(scenes / "train")]
    command += ["--media_root", str(scenes), "--eval_benchmark", str(scenes / "benchmark.yaml")]
    command += ["--output_dir", str(tmp_path / "model"), "--max_steps", "4", "--per_device_train_batch_size", "8"]
    command += ["--logging_steps", "2", "--save_steps", "2", "--resume_from_checkpoint", *options]
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False
    )
    log = done.stdout.decode()
    assert done.returncode == 0, log
    lines = lines_of(log)
    once = (*ONCE, ACCUMULATES) if options else ONCE
    assert not unexpected(lines, (*ALLOWED, f"{ACCUMULATES}.*") if options else ALLOWED)
    assert {wanted: sum(wanted in line for line in lines) for wanted in once} == dict.fromkeys(once, 1)
    assert sum(line.startswith("{'loss'") for line in lines) == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_the_whole_quickstart_prints_what_a_person_needs(tmp_path: Path) -> None:
    """With little data and few steps; else as `make quickstart` runs it."""
    short = ("--max_steps", "2", "--save_steps", "2", "--logging_steps", "1")
    script = f"""
import llave_hf.quickstart.__main__ as quickstart
quickstart.TRAIN_PAIRS, quickstart.EVAL_QUERIES = 800, 28
quickstart.FIRST_LESSON += {short}
quickstart.SECOND_LESSON += {short}
quickstart.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900
    )
    log = done.stdout.decode()
    assert done.returncode == 0, log
    lines = lines_of(log)
    assert not unexpected(lines, ALLOWED + QUICKSTART)
    assert sum("llave_hf trains" in line for line in lines) == 2
    assert (tmp_path / "quickstart" / "answers.png").stat().st_size > 10_000


def lines_of(log: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+|\x1b\[A", log) if line.strip()]


def unexpected(lines: list[str], allowed: tuple[str, ...]) -> str:
    return "\n".join(line for line in lines if not any(re.fullmatch(pattern, line) for pattern in allowed))
