"""The defect of DeepSpeed that the order of micro-batches passes by (recipes/engines.md), shown on DeepSpeed alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed"),
]


def test_zero3_keeps_gradients_of_the_update_before() -> None:
    """Where this fails, DeepSpeed has changed: see whether fillers at the ends of a step are needed any longer."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("deepspeed_buffer_worker.py"))],
        capture_output=True,
        text=True,
        env={**os.environ, **alone, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("found "))
    found = json.loads(line.removeprefix("found "))
    assert found["whole"] == [1, 1]  # reached by the first backward: what llave_hf sees to
    assert found["later"] == [1, 2], "DeepSpeed no longer adds to the last update's gradient"
    assert found["never"] == [1, 1], "DeepSpeed no longer gives the last update's gradient again"
