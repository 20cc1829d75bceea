"""Streams, groups and data as it is published over two real ranks: the runs of one rank, and a resume to the bit.

All runs share a launch, and those that go on after a break another one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_model, write_recipe, write_training_data
from published import PUBLISHED
from tables import picture_bytes, write_archive
from test_training import launch, weights

from llave_hf.cli import main
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

WORKER = Path(__file__).with_name("runs_worker.py")
BROKEN = {"streams": 7, "groups": 9}  # after so many steps
PUBLISHED_RUNS = ("published", "published_streams")


def launch_all(root: Path, runs: list[list[str]]) -> str:
    listed = root / "runs.json"
    listed.write_text(json.dumps(runs))
    return launch(listed, 2, program=[str(WORKER)], timeout=600)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a kind of data, with its recipe and the run `two`."""
    root = tmp_path_factory.mktemp("runs")
    recipes = {"streams": streams(root / "streams"), "groups": groups(root / "groups")}
    recipes |= {name: published(root / name, streaming="streams" in name) for name in PUBLISHED_RUNS}
    said = launch_all(
        root, [[str(recipe), "--output_dir", str(root / name / "two")] for name, recipe in recipes.items()]
    )
    assert said.count("2 x cpu") == said.count("train_loss") == len(recipes)
    return root


def streams(root: Path) -> Path:
    """14 steps of 12 an epoch, broken after 7; the buffer holds two batches."""
    write_training_data(root)
    return write_recipe(
        root,
        streaming=True,
        stream_buffer_size=8,
        per_device_train_batch_size=2,
        max_steps=14,
        save_steps=7,
        adam_epsilon=1e-3,
    )


def groups(root: Path) -> Path:
    """Mined again as the model learns: 14 steps of six an epoch, each of two groups; broken amid the second epoch."""
    write_training_data(root)
    for part in tiny_model(processor={"image_tiling": "none"}):
        part.save_pretrained(root / "model")
    command = ["mine", str(root / "train"), str(root / "model"), "--output", str(root / "mined")]
    mining = ["--group_size", "4", "--num_negatives", "0", "--relative_margin", "none", "--rank_max", "6"]
    main([*command, "--media_root", str(root), *mining])
    return write_recipe(
        root,
        train_data=str(root / "mined"),
        batch_groups=True,
        mine_every=1,
        mine_options={"relative_margin": None, "rank_max": 6},
        per_device_train_batch_size=4,
        max_steps=14,
        save_steps=9,
        adam_epsilon=1e-3,
    )


def published(root: Path, *, streaming: bool) -> Path:
    """Pictures inside tables, lists as text, shards of tar."""
    root.mkdir()
    return write_recipe(
        root,
        train_data=entries(root, streaming=streaming),
        streaming=streaming,
        stream_buffer_size=8,
        use_negatives=True,
        per_device_train_batch_size=2,
        dataloader_num_workers=1,
        max_steps=6,
        save_steps=3,
        train_split=None,
    )


def entries(root: Path, *, streaming: bool) -> list[dict[str, Any]]:
    """Entries of `train_data`, each with enough rows for a batch of two on each of two ranks."""
    for shard in range(2):
        samples = [
            (f"{row:03d}", {"jpg": picture_bytes(50 + row, kind="JPEG"), "json": {"caption": f"thing {row}"}})
            for row in range(shard * 6, shard * 6 + 6)
        ]
        write_archive(root / f"tars/{shard:05d}.tar", samples)
    tars = {
        "path": str(root / "tars/{00000..00001}.tar"),
        "query": "Find: {caption}",
        "positive": {"image": "jpg"},
        "weight": 2,
    }
    names = ["vidore/colpali_train_set", "intfloat/mmE5-synthetic", "TIGER-Lab/MMEB-train"]
    if not streaming:
        names += ["openbmb/VisRAG-Ret-Train-Synthetic-data", "intfloat/mmE5-MMEB-hardneg"]
    made = [PUBLISHED[name].write(root / name) for name in names]
    for name, entry in zip(names, made, strict=True):
        folder = root / name / name.rpartition("/")[2]
        (root / name / "data").rename(folder)  # the task's name
        entry["path"] = str(folder)
    return [*made, tars]


@pytest.fixture(scope="module")
def resumed(root: Path) -> Path:
    """Beside `two` a run that goes on from a checkpoint of it, `broken`."""
    runs = []
    for name, done in BROKEN.items():
        for part in ("initial", f"checkpoint-{done}"):
            shutil.copytree(root / name / "two" / part, root / name / "broken" / part)
        folder = root / name
        runs.append([str(folder / "recipe.yaml"), "--output_dir", str(folder / "broken"), "--resume_from_checkpoint"])
    launch_all(root, runs)
    return root


@pytest.mark.parametrize("name", BROKEN)
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(resumed: Path, name: str) -> None:
    two, broken = (weights(resumed / name / run) for run in ("two", "broken"))
    assert two.keys() == broken.keys()
    for parameter in two:
        assert torch.equal(two[parameter], broken[parameter]), parameter


@pytest.mark.parametrize("name", BROKEN)
def test_two_ranks_train_to_the_weights_of_one(root: Path, name: str) -> None:
    """Of one process with as many rows in a global batch."""
    folder = root / name
    shutil.copytree(folder / "two" / "initial", folder / "one" / "initial")
    recipe = folder / "recipe.yaml"
    rows = 2 * load_recipe(recipe).training.per_device_train_batch_size
    train(load_recipe(recipe, ["--output_dir", str(folder / "one"), "--per_device_train_batch_size", str(rows)]))
    start, one, two = (weights(folder / run) for run in ("two/initial", "one", "two"))
    moved = max((two[part] - start[part]).abs().max().item() for part in two)
    assert moved > 1e-3
    assert max((one[part] - two[part]).abs().max().item() for part in one) < 1e-3 * moved
    if name == "groups":
        kept = [np.load(folder / run / "checkpoint-9" / "mined_groups.npz") for run in ("one", "two")]
        assert kept[0]["epoch"] == kept[1]["epoch"] == 1
        assert all(np.array_equal(kept[0][task], kept[1][task]) for task in ("task_0", "task_1"))


@pytest.mark.parametrize("name", PUBLISHED_RUNS)
def test_published_data_train(root: Path, name: str) -> None:
    state = json.loads((root / name / "two/checkpoint-6/trainer_state.json").read_text())
    losses = [step["loss"] for step in state["log_history"] if "loss" in step]
    assert len(losses) == 6 and all(0 < loss < 20 for loss in losses)
