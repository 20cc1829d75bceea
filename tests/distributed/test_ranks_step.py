"""The training step over real processes: gradients and weights of one process with the whole batch and one graph."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version

sys.path[:0] = [str(Path(__file__).parents[1] / "training"), str(Path(__file__).parent)]

from forked_ranks import run_ranks  # noqa: E402
from mutations import MUTATIONS, PLANTED  # noqa: E402
from step_helpers import write_media  # noqa: E402

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SHARDS = Version(torch.__version__) >= Version("2.12")
SAME = [(2, "gradients"), (2, "autocast"), (1, "weights"), (2, "weights"), (4, "weights"), (2, "sharded")]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each check, by world and name. Mistakes are planted first: what follows shows that they are out."""
    root = write_media(tmp_path_factory.mktemp("step") / "root")
    checks = [f"2:{mutation}" for mutation in sorted(MUTATIONS)]
    checks += [f"{world}:{what}" for world, what in SAME if SHARDS or what != "sharded"]
    printed = run_ranks([1, 2, 4], Path(__file__).with_name("step_worker.py"), str(root), *checks)
    lines = [line.partition(": ") for line in printed.splitlines() if line.startswith("world ")]
    return {name: result for name, _, result in lines}


@pytest.mark.parametrize(("world", "what"), SAME)
def test_ranks_have_the_gradients_of_one(said: dict[str, str], world: int, what: str) -> None:
    if what == "sharded" and not SHARDS:
        pytest.skip("gloo has no reduce-scatter before torch 2.12")
    result = said[f"world {world}, {what}"]
    assert not result.startswith("differs"), result


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_planted_mistake_is_seen(said: dict[str, str], mutation: str) -> None:
    assert said[f"world 2, {mutation}"].startswith(f"differs ('{PLANTED[mutation]}', 'alike', 1, True,")
