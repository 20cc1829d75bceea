"""Whole training runs over real processes, started as a user starts them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import write_recipe, write_training_data
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
TRAIN = ("-m", "llave_hf.train")


def launch(recipe: Path, ranks: int, *overrides: str, program: Sequence[str] = TRAIN, timeout: int = 240) -> str:
    """`accelerate launch` on the CPU; what it printed. `--cpu --num_processes 2` would start one process."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(ranks)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["--multi_gpu"] if ranks > 1 else []
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *program, str(recipe), *overrides],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a run of two ranks over 14 steps (an epoch has 12) with a checkpoint after 7, by gradient caching."""
    root = write_training_data(tmp_path_factory.mktemp("runs"))
    # Adam divides by the root of the second moment: where gradients are all but zero, a larger epsilon keeps it from
    # making steps out of rounding, which differs between one rank and two.
    recipe = write_recipe(
        root,
        per_device_train_batch_size=2,
        mini_batch_num_tokens=64,
        max_steps=14,
        save_steps=7,
        adam_epsilon=1e-3,
    )
    said = launch(recipe, 2, "--output_dir", str(root / "two"))
    assert "2 x cpu" in said
    assert "3 per query" in said
    assert "holds the graph of one at a time" in said
    return root


def test_two_ranks_resumed_end_with_the_weights_of_an_unbroken_run(runs: Path) -> None:
    broken = runs / "broken"
    broken.mkdir()
    for name in ("checkpoint-7", "initial"):
        shutil.copytree(runs / "two" / name, broken / name)
    launch(runs / "recipe.yaml", 2, "--output_dir", str(broken), "--resume_from_checkpoint")
    expected, found = weights(runs / "two"), weights(broken)
    start = weights(runs / "two" / "initial")
    assert any(not torch.equal(expected[name], start[name]) for name in expected)
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_two_ranks_train_to_the_weights_of_one(runs: Path) -> None:
    """As many pairs in a global batch, so as many negatives, the same steps: gathered negatives are one device's, and
    micro-batches with cached gradients are one batch with one graph."""
    alone = ["--per_device_train_batch_size", "4", "--gradient_caching", "false"]
    launch(runs / "recipe.yaml", 1, "--output_dir", str(runs / "one"), *alone)
    one, two, start = weights(runs / "one"), weights(runs / "two"), weights(runs / "two" / "initial")
    assert all(torch.equal(tensor, weights(runs / "one" / "initial")[name]) for name, tensor in start.items())
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    assert moved > 1e-3
    apart = max((one[name] - two[name]).abs().max().item() for name in one)
    assert apart < 1e-3 * moved


def test_without_gathering_the_ranks_train_to_other_weights(runs: Path) -> None:
    """What the tests above would miss if the gather did nothing."""
    launch(runs / "recipe.yaml", 2, "--output_dir", str(runs / "apart"), "--gather_across_devices", "false")
    one, two = weights(runs / "two"), weights(runs / "apart")
    start = weights(runs / "two" / "initial")
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    assert max((one[name] - two[name]).abs().max().item() for name in one) > 0.1 * moved


def test_two_machines_train_to_the_weights_of_one(runs: Path) -> None:
    """Two launchers that find each other by address, a process each, as on two machines that share a disk."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
    command += ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--rdzv_backend", "static"]
    recipe = ["-m", "llave_hf.train", str(runs / "recipe.yaml"), "--output_dir", str(runs / "machines")]
    machines = [
        subprocess.Popen(
            [*command, "--machine_rank", str(number), *recipe],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    said = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "2 x cpu" in said[0] and "3 per query" in said[0]
    expected, found = weights(runs / "two"), weights(runs / "machines")
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_the_shipped_cpu_configuration_starts_two_processes(runs: Path) -> None:
    """`MULTI_CPU` would start one without a word; no variable of the environment is needed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(ROOT / "recipes/accelerate/cpu.yaml"), "-m", "llave_hf.train"]
    command += [str(runs / "recipe.yaml"), "--output_dir", str(runs / "configured"), "--max_steps", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("ACCELERATE_USE_CPU", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2 x cpu" in done.stdout
