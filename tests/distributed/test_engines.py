"""Whole training runs under accelerate's FSDP2 and under DeepSpeed, on two CPU processes, started as a user does.

The reference is one process with the whole batch and one graph. All runs of an engine share one launch
(`engine_runs.PLAN`); the first test of an engine waits for it.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("training", "distributed", "evaluation")]

from engine_runs import PLAN, POST_MORTEMS, RESUMED, apart, errors_of, folder_of, moved, run_all, weights, write_root  # noqa: E402
from transformers import AutoModel  # noqa: E402

from llave_hf import LlaveModel  # noqa: E402

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TOLERANCE = 1e-5
CASES = [(engine, name) for engine, names in PLAN.items() for name in names]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and the runs of one process."""
    root = write_root(tmp_path_factory.mktemp("engines"))
    (root / "one.txt").write_text(run_all(root, None))
    return root


@pytest.fixture(scope="module")
def said(root: Path) -> dict[str, str]:
    """What each engine's launch printed, by engine."""
    return {}


def ensure_run(engine: str, root: Path, said: dict[str, str]) -> str:
    if engine.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    if engine not in said:
        said[engine] = ""  # a launch that fails is not started once more
        said[engine] = run_all(root, engine)
    assert said[engine], f"the launch of {engine} failed"
    return said[engine]


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_an_engine_does_what_one_process_does(engine: str, name: str, root: Path, said: dict[str, str]) -> None:
    """Losses, gradient norms, weights after several steps and evaluations; a resumed run equals its unbroken one."""
    ensure_run(engine, root, said)
    errors = errors_of(root, engine, name)
    limit = 0.0 if name in RESUMED else TOLERANCE
    assert max(errors.values()) <= limit, errors
    start = root / "start" if "LoRA" in name else folder_of(root, None, name) / "initial"
    assert moved(folder_of(root, engine, name), start) > 1e-3
    if "evaluation" in name:
        assert "evaluation" in errors


@pytest.mark.parametrize("engine", PLAN)
def test_each_rank_holds_its_share_and_the_finished_folder_is_a_model(
    engine: str, root: Path, said: dict[str, str]
) -> None:
    printed = ensure_run(engine, root, said)
    if engine.startswith("fsdp2"):
        shares = re.findall(r"rank \d holds (\d+) of (\d+) numbers", printed)
        assert len(shares) == 2 * (len(PLAN[engine]) + (engine in POST_MORTEMS))
        assert all(0.4 < int(local) / int(whole) < 0.6 for local, whole in shares)
    else:
        kind = "MULTI_CPU" if engine == "ddp" else "DEEPSPEED"
        assert printed.count(f"DistributedType.{kind}") == 2 * len(PLAN[engine])
    for name in PLAN[engine]:
        folder = folder_of(root, engine, name)
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == ["LlaveModel"]
        assert config["auto_map"]["AutoModel"] == "modeling_llave.LlaveModel"
        one = folder_of(root, None, name)
        files = {path.name for path in folder.iterdir() if not path.name.startswith("checkpoint")}
        assert files == {path.name for path in one.iterdir() if not path.name.startswith("checkpoint")}, name
        assert (folder / "adapter").is_dir() == ("LoRA" in name)
    assert isinstance(AutoModel.from_pretrained(folder), LlaveModel)


def test_the_cases_differ_from_one_another(root: Path) -> None:
    """What the tests above would miss if a setting did nothing."""
    plain = folder_of(root, None, "caching")
    for name in ("teacher", "moving average", "explicit negatives", "frozen tower", "accumulation", "Focal-InfoNCE"):
        assert apart(folder_of(root, None, name), plain)["loss"] > 1e-5, name
    pairs = [("batches of groups", "batches of groups, mined again"), ("teacher", "relative to the positive")]
    for one, other in pairs:
        assert apart(folder_of(root, None, one), folder_of(root, None, other))["loss"] > 1e-5, other


@pytest.mark.parametrize("engine", POST_MORTEMS)
def test_numbers_that_are_not_finite_stop_all_ranks_and_are_kept(
    engine: str, root: Path, said: dict[str, str]
) -> None:
    printed = ensure_run(engine, root, said)
    assert re.search(r"stopped: step \d: .* not finite", printed), printed[-2000:]
    assert re.search(r"stopped: rank 1 stops at step \d with rank 0", printed)
    (folder,) = (root / engine / "stopped").glob("postmortem-*")
    report = json.loads((folder / "report.json").read_text())
    assert [rank["rank"] for rank in report["ranks"]] == [0, 1]
    assert report["not_finite"] == "embeddings"  # the weights are huge, and finite
    assert all(rank["rows_not_finite"] and rank["parameter_not_finite"] is None for rank in report["ranks"])
    assert (folder / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("engine", PLAN)
def test_parameters_are_counted_where_ranks_hold_shares(engine: str, root: Path, said: dict[str, str]) -> None:
    counted = re.compile(r"[\d,]+ parameters trained, [\d,]+ frozen")
    found = counted.findall(ensure_run(engine, root, said))
    assert found and set(found) <= set(counted.findall((root / "one.txt").read_text()))


@pytest.mark.parametrize("engine", PLAN)
def test_the_seed_builds_the_same_model(engine: str, root: Path, said: dict[str, str]) -> None:
    ensure_run(engine, root, said)
    expected = weights(folder_of(root, None, "caching") / "initial")
    name = next(name for name in ("caching", "evaluation") if name in PLAN[engine])
    built = weights(folder_of(root, engine, name) / "initial")
    assert built.keys() == expected.keys()
    assert all(torch.equal(built[key], expected[key]) for key in built)
