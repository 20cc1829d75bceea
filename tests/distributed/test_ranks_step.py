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

from mutations import MUTATIONS, PLANTED
from step_helpers import write_media

pytestmark = pytest.mark.distributed


def run(root: Path, world: int, what: str) -> subprocess.CompletedProcess[str]:
    worker = Path(__file__).with_name("step_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    return subprocess.run(
        [*command, str(worker), str(write_media(root)), what],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=480,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "what"),
    [
        (2, "gradients"),
        (1, "weights"),
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
    done = run(tmp_path / "root", world, what)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"world {world}, {what}: " in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_planted_mistake_is_seen(tmp_path: Path, mutation: str) -> None:
    done = run(tmp_path / "root", 2, mutation)
    assert done.returncode != 0
    assert f"AssertionError: ('{PLANTED[mutation]}', 'alike', 1, True," in done.stderr, done.stderr[-4000:]
