"""Muon over real processes: the work is shared, the weights are those of one process to the bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from forked_ranks import run_ranks

pytestmark = pytest.mark.distributed
WORLDS = [2, 3]


@pytest.fixture(scope="module")
def said() -> str:
    return run_ranks(WORLDS, Path(__file__).with_name("muon_worker.py"))


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_share_the_products_and_have_the_weights_of_one(said: str, world: int) -> None:
    assert f"world {world}: 23 products" in said  # 5 steps of 5 matrices, two without gradient
