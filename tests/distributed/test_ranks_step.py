"""The training step over real processes: gradients and weights of one process with the whole batch and one graph."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from step_helpers import write_media

pytestmark = pytest.mark.distributed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "what"),
    [
        (2, "gradients"),
        (2, "weights"),
        (4, "weights"),
        pytest.param(
            2,
            "sharded",
            marks=pytest.mark.skipif(
                Version(torch.__version__) < Version("2.12"), reason="gloo has no reduce-scatter before torch 2.12"
            ),
        ),
    ],
)
def test_ranks_have_the_gradients_of_one(tmp_path: Path, world: int, what: str) -> None:
    root = write_media(tmp_path / "root")
    worker = Path(__file__).with_name("step_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    done = subprocess.run(
        [*command, str(worker), str(root), what],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=480,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"world {world}, {what}: " in done.stdout, done.stdout
