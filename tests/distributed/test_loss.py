"""Loss and gather over real processes: each rank's value and gradient, and their mean over ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_have_the_published_losses_and_gradients(world: int) -> None:
    worker = Path(__file__).with_name("loss_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}", str(worker)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"world {world}: 1" in done.stdout, done.stdout  # ten or more cases
