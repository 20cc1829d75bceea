"""Loss and gather over real processes: each rank's value and gradient, and their mean over ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from forked_ranks import run_ranks

pytestmark = pytest.mark.distributed
WORLDS = [2, 4]


@pytest.fixture(scope="module")
def said() -> str:
    return run_ranks(WORLDS, Path(__file__).with_name("loss_worker.py"))


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_have_the_published_losses_and_gradients(said: str, world: int) -> None:
    assert f"world {world}: 1" in said  # ten or more cases
