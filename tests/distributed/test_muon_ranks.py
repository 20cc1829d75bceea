"""Muon over real processes: the work is shared, the weights are those of one process to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_products_and_have_the_weights_of_one(world: int) -> None:
    worker = Path(__file__).with_name("muon_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}", str(worker)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"world {world}: 23 products" in done.stdout, done.stdout  # 5 steps of 5 matrices, two without gradient
