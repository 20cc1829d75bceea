"""What happens to one rank of two: killed, an error in its data, numbers that are not finite, all of them killed."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import write_recipe, write_training_data
from safetensors.torch import load_file

from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train

sys.path.insert(0, str(Path(__file__).parents[1] / "training" / "recovery"))

from killing import equal

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("surviving_worker.py")
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
MINUTE = 60


def environment(**more: str) -> dict[str, str]:
    common = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **common, "PYTHONPATH": str(ROOT), **more}


def launch(what: str, step: int, recipe: Path, *overrides: str) -> tuple[int, str, float | None]:
    """Exit status, stderr, and seconds from `killed here` to the end of all that were started."""
    command = [*LAUNCH, str(WORKER), what, str(step), str(recipe), *overrides]
    started = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    assert started.stderr is not None
    said, killed = [], None
    for line in started.stderr:  # ends when the last process that may write to it has ended
        said.append(line)
        if "killed here" in line or "llave: error: " in line:
            killed = killed or time.monotonic()
    return started.wait(), "".join(said), None if killed is None else time.monotonic() - killed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with one broken picture, and a recipe that passes over it."""
    folder = write_training_data(tmp_path_factory.mktemp("surviving"))
    picture = folder / "images" / "5.png"
    picture.write_bytes(picture.read_bytes()[:60])
    write_recipe(
        folder,
        per_device_train_batch_size=2,
        mini_batch_num_tokens=64,
        batch_tasks="mixed",
        max_steps=14,
        save_steps=4,
        adam_epsilon=1e-3,
        lr_scheduler_type="constant",
        on_bad_sample="skip",
        telemetry_every=2,
        logging_steps=3,
    )
    return folder


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    status, said, _ = launch("nothing", 0, root / "recipe.yaml", "--output_dir", str(root / "whole"))
    assert status == 0, said[-4000:]
    return root / "whole"


def train_alone(root: Path, name: str, *overrides: str) -> None:
    """What two ranks trained, in this process."""
    alone = ["--output_dir", str(root / name), "--per_device_train_batch_size", "4", *overrides]
    train(load_recipe(root / "recipe.yaml", alone))


def same(one: Path, other: Path, names: list[str]) -> None:
    for name in names:
        assert equal(one / name, other / name), name


def test_two_ranks_killed_together_go_on_to_the_same_bits(root: Path, whole: Path) -> None:
    recipe, out = root / "recipe.yaml", root / "killed"
    status, said, _ = launch("kill-all", 11, recipe, "--output_dir", str(out))
    assert status == -9, said[-4000:]
    assert (out / "checkpoint-8").is_dir()
    status, said, _ = launch("nothing", 0, recipe, "--output_dir", str(out), "--resume_from_checkpoint")
    assert status == 0, said[-4000:]
    found = {str(path.relative_to(whole / "checkpoint-12")) for path in (whole / "checkpoint-12").rglob("*.p*")}
    assert {"optimizer.pt", "scheduler.pt", "telemetry.pt", "rng_state_0.pth", "rng_state_1.pth"} <= found
    states = sorted(name for name in found if name.endswith((".pt", ".pth")))
    same(out / "checkpoint-12", whole / "checkpoint-12", [*states, "model.safetensors", "trainer_state.json"])
    same(out, whole, ["model.safetensors", "telemetry.json", "bad_samples.jsonl"])
    assert json.loads((out / "bad_samples.jsonl").read_text().splitlines()[0])["row"] == 5


def test_where_one_rank_is_told_to_end_both_write_a_checkpoint_and_go_on_to_the_same_bits(
    root: Path, whole: Path
) -> None:
    recipe, out = root / "recipe.yaml", root / "terminated"
    status, said, _ = launch("terminate", 6, recipe, "--output_dir", str(out))
    assert status != 0 and said.count("exitcode  : 143") == 2, said[-4000:]
    assert (out / "checkpoint-6").is_dir() and not (out / "model.safetensors").exists()
    status, said, _ = launch("nothing", 0, recipe, "--output_dir", str(out), "--resume_from_checkpoint")
    assert status == 0, said[-4000:]
    same(out, whole, ["model.safetensors", "bad_samples.jsonl"])


def test_with_bad_samples_two_ranks_train_to_the_weights_of_one(root: Path, whole: Path) -> None:
    """Uneven ranks: the loss is a mean over the pairs that are there, wherever they are."""
    train_alone(root, "one")
    one, two = (load_file(folder / "model.safetensors") for folder in (root / "one", whole))
    start = load_file(whole / "initial" / "model.safetensors")
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    assert moved > 1e-3
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-3 * moved
    listed = [
        {(entry["source"], entry["row"]) for entry in map(json.loads, (folder / "bad_samples.jsonl").open())}
        for folder in (root / "one", whole)
    ]
    assert listed[0] == listed[1] == {("Caption", 5), ("Question", 5)}


def test_with_a_teacher_and_bad_samples_two_ranks_train_to_the_weights_of_one(root: Path, whole: Path) -> None:
    """One rank finds what the teacher cannot encode; the other has to leave it out as well."""
    recipe = root / "recipe.yaml"
    settings = ["--hardness_source", "teacher", "--hardness_teacher", str(whole), "--hardness_strength", "20"]
    settings += ["--max_steps", "8"]
    status, said, _ = launch("nothing", 0, recipe, "--output_dir", str(root / "taught"), *settings)
    assert status == 0, said[-4000:]
    train_alone(root, "taught-one", *settings)
    one, two = (load_file(root / name / "model.safetensors") for name in ("taught-one", "taught"))
    start = load_file(whole / "initial" / "model.safetensors")
    moved = max((one[name] - start[name]).abs().max().item() for name in one)
    assert moved > 1e-3
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-3 * moved
    for name in ("taught-one", "taught"):
        listed = [json.loads(line) for line in (root / name / "bad_samples.jsonl").open()]
        assert [(entry["source"], entry["row"]) for entry in listed] == [("Caption", 5), ("Question", 5)]


def test_the_death_of_a_rank_ends_the_other_within_a_minute(root: Path) -> None:
    status, said, seconds = launch("kill", 3, root / "recipe.yaml", "--output_dir", str(root / "death"))
    assert status not in (0, None)
    assert seconds is not None
    assert seconds < MINUTE
    assert "Signal 9 (SIGKILL)" in said
    assert "rank      : 1" in said


def test_an_error_in_the_data_of_one_rank_ends_the_other_within_a_minute(root: Path) -> None:
    options = ["--output_dir", str(root / "error"), "--on_bad_sample", "raise", "--num_train_epochs", "1"]
    status, said, seconds = launch("nothing", 0, root / "recipe.yaml", *options)
    assert status not in (0, None)
    assert seconds is not None
    assert seconds < MINUTE
    assert said.count("llave: error: Caption, row 5: ") + said.count("llave: error: Question, row 5: ") == 1
    assert "images/5.png cannot be decoded" in said


def test_the_death_of_a_rank_ends_the_other_without_an_agent(root: Path) -> None:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = str(found.getsockname()[1])
    ranks = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        command = [sys.executable, str(WORKER), "kill", "3", str(root / "recipe.yaml")]
        ranks.append(
            subprocess.Popen(
                [*command, "--output_dir", str(root / "agentless")],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(MASTER_ADDR="localhost", MASTER_PORT=port, **place),
            )
        )
    assert ranks[1].wait(timeout=400) == -9
    killed = time.monotonic()
    _, said = ranks[0].communicate(timeout=MINUTE)
    assert time.monotonic() - killed < MINUTE
    assert ranks[0].returncode not in (0, None)
    assert re.search("by peer|remote worker", said), said[-2000:]


def test_numbers_that_are_not_finite_on_one_rank_stop_both_with_both_batches_kept(root: Path) -> None:
    status, said, seconds = launch("nan", 6, root / "recipe.yaml", "--output_dir", str(root / "nan"))
    assert status not in (0, None)
    assert seconds is not None
    assert seconds < MINUTE
    assert "step 6: embeddings are not finite (2 rows, of rank 1: " in said
    assert f"{root}/nan/checkpoint-4 is whole" in said
    assert "stops at step 6 with rank 0, which says why" in said
    folder = root / "nan" / "postmortem-6"
    rows = [json.loads((folder / f"rank-{rank}.json").read_text())[0] for rank in (0, 1)]
    assert [{row["finite"] for row in ranks} for ranks in rows] == [{True}, {False}]
    kept = load_file(folder / "rank-1.safetensors")
    assert not torch.isfinite(kept["embeddings"]).any(1).all()
