"""Training on mined groups: from `llave mine` to the weights, resumed to the bit, looked at by the doctor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file

from llave_hf.cli import main
from llave_hf.doctor import examine
from llave_hf.train import main as train_main
from llave_hf.training.mined_groups import MinedGroups
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import load_training_pairs, train
from llave_hf.training.trainer import LlaveTrainer


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of 24 rows in groups of two, without negatives."""
    root = write_training_data(tmp_path_factory.mktemp("data"))
    for part in tiny_model(processor={"image_tiling": "none"}):
        part.save_pretrained(root / "model")
    command = ["mine", str(root / "train"), str(root / "model"), "--output", str(root / "mined")]
    main(
        [*command, "--media_root", str(root), "--group_size", "2", "--num_negatives", "0", "--relative_margin", "none"]
    )
    return root


def groups(root: Path, task: str) -> dict[str, int | None]:
    lines = (root / "mined" / task / "original.jsonl").read_text().splitlines()
    return {row["qry"] + row["pos_text"] + row["qry_image_path"]: row["batch_group"] for row in map(json.loads, lines)}


def test_the_command_writes_rows_in_the_order_of_their_groups(mined: Path) -> None:
    for task in ("Caption", "Question"):
        before = [json.loads(line) for line in (mined / "train" / task / "original.jsonl").read_text().splitlines()]
        after = [json.loads(line) for line in (mined / "mined" / task / "original.jsonl").read_text().splitlines()]
        told = json.loads((mined / "mined" / task / "mining.json").read_text())["groups"]
        numbers = [row["batch_group"] for row in after]
        paired = [number for number in range(told["groups"]) for _ in range(2)]
        assert numbers == [*paired, *[None] * told["rows_in_none"]]
        assert told["groups"] * 2 + told["rows_in_none"] == 24
        assert all(row["neg_text"] == [] for row in after)
        kept = [{key: row[key] for key in before[0]} for row in after]
        assert sorted(kept, key=json.dumps) == sorted(before, key=json.dumps) != kept


def check_own_groups(trainer: LlaveTrainer) -> None:
    """Each query met the other row of its group of two in each step, as telemetry has it; masked or not."""
    assert trainer.watch.telemetry is not None
    assert len(trainer.watch.telemetry.history) == 14
    for entry in trainer.watch.telemetry.history:
        own, masked = entry["negatives_own_group"], entry["masked_share_own_group"]
        assert own / (1 - masked) == pytest.approx(1) if own else masked == 1
        others = entry["negatives_other_groups"] / (1 - entry["masked_share_other_groups"])
        assert others == pytest.approx(trainer.args.per_device_train_batch_size - 2)
        assert 0 <= entry["group_gradient_share"] <= 1
    logged = [log for log in trainer.state.log_history if "loss" in log]
    assert all("group_gradient_share" in log for log in logged)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="one"),
        pytest.param({"batch_tasks": "mixed", "mini_batch_size": 2}, id="mixed, cached", marks=SLOW),
        pytest.param({"streaming": True, "stream_buffer_size": 8}, id="stream", marks=SLOW),
    ],
)
def test_batches_are_whole_groups_and_resume_goes_on_to_the_same_bits(
    mined: Path, tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(mined / "images", tmp_path / "images")
    recipe = write_recipe(
        tmp_path,
        train_data=str(mined / "mined"),
        batch_groups=True,
        output_dir=str(tmp_path / "whole"),
        max_steps=14,
        save_steps=7,
        **changes,
    )
    trainer = train(load_recipe(recipe))
    check_own_groups(trainer)
    assert "in a batch, in groups of 2" in capsys.readouterr().out
    group_of = {**groups(mined, "Caption"), **groups(mined, "Question")}
    loader = trainer.get_train_dataloader()
    found = trainer.train_dataset
    for entries in loader.batch_sampler:
        pairs = [found[entry] if isinstance(entry, int) else entry for entry in entries]
        marks = {"Caption": "<|image_1|>\n", "Question": ""}
        keys = [
            p.query.text + marks["Caption"]
            if p.source == "Caption"
            else f"<|image_1|>{p.query.text}{p.positive.text}{p.query.images[0]}"
            for p in pairs
        ]
        numbers = sorted((pair.source, group_of[key]) for pair, key in zip(pairs, keys, strict=True))
        assert numbers[::2] == numbers[1::2]
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("checkpoint-7", "initial"):
        shutil.copytree(tmp_path / "whole" / name, broken / name)
    train(load_recipe(recipe, ["--output_dir", str(broken), "--resume_from_checkpoint"]))
    expected, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    start = load_file(tmp_path / "whole/initial/model.safetensors")
    assert any(not torch.equal(expected[name], start[name]) for name in expected)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize("streaming", [False, True])
def test_data_without_groups_are_refused_with_the_command(
    mined: Path, tmp_path: Path, streaming: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, train_data=str(mined / "train"), batch_groups=True, streaming=streaming)
    with pytest.raises(SystemExit):
        train_main([str(recipe)])
    told = capsys.readouterr().err
    assert told.count("llave: error: ") == 1
    assert "has no column 'batch_group', which batch_groups needs" in told
    assert f"llave mine {mined / 'train'} MODEL --output mined --group_size 8" in told


def test_the_doctor_knows_groups(mined: Path, tmp_path: Path) -> None:
    shutil.copytree(mined / "images", tmp_path / "images")
    shutil.copytree(mined / "mined", tmp_path / "mined")
    file = tmp_path / "mined" / "Caption" / "original.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["batch_group"] = row["batch_group"] if row["batch_group"] == 0 else None
    file.write_text("\n".join(map(json.dumps, rows)))
    recipe = write_recipe(tmp_path, train_data=str(tmp_path / "mined"), batch_groups=True)
    found = [str(finding) for finding in examine(str(recipe), tflops=100.0)]
    assert any("Caption has 2 rows in groups, fewer than a batch of 4" in told for told in found)
    assert any("Caption: 22 rows are in no group (91.7%)" in told for told in found)
    recipe = write_recipe(tmp_path, train_data=str(mined / "mined"), batch_groups=True, per_device_train_batch_size=3)
    found = [str(finding) for finding in examine(str(recipe), tflops=100.0)]
    assert any("a global batch has 3 rows, which is no union of Caption's groups of 2" in told for told in found)


EVERY_EPOCH: dict[str, Any] = {
    "batch_groups": True,
    "mine_every": 1,
    "mine_options": {"relative_margin": None, "rank_max": 20},
    "per_device_train_batch_size": 8,
    "max_steps": 14,  # six an epoch
}


@pytest.mark.slow
@pytest.mark.parametrize("done", [6, 9])
def test_a_run_that_mines_again_goes_on_to_the_same_bits(mined: Path, tmp_path: Path, done: int) -> None:
    """At the end of an epoch, before the next is mined; or amid one, with the groups that it began with."""
    shutil.copytree(mined / "images", tmp_path / "images")
    whole = {"output_dir": str(tmp_path / "whole"), "save_steps": 3, "learning_rate": 0.01}
    recipe = write_recipe(tmp_path, train_data=str(mined / "mined"), **EVERY_EPOCH, **whole)
    trainer = train(load_recipe(recipe))
    check_own_groups(trainer)
    mining = trainer.kept[-1]
    assert isinstance(mining, MinedGroups)
    assert mining.epoch == 2
    of_data = trainer.train_dataset.groups()
    assert [groups.shape for groups in mining.groups] == [groups.shape for groups in of_data]
    assert any(not np.array_equal(now, then) for now, then in zip(mining.groups, of_data, strict=True))
    for groups, source in zip(mining.groups, trainer.train_dataset.sources, strict=True):
        assert set(groups.ravel().tolist()) <= set(range(source.start, source.stop))
        assert len(np.unique(groups)) == groups.size
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in (f"checkpoint-{done}", "initial"):
        shutil.copytree(tmp_path / "whole" / name, broken / name)
    again = train(load_recipe(recipe, ["--output_dir", str(broken), "--resume_from_checkpoint"]))
    assert all(map(np.array_equal, again.kept[-1].groups, mining.groups))  # type: ignore[attr-defined]
    expected, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_groups": False}, "mine_every finds anew the groups of batch_groups, which is off"),
        ({"mine_every": 0}, "mine_options is given and nothing is mined"),
        ({"mine_every": -1}, "mine_every is -1"),
        ({"mine_options": {"rank_mix": 3}}, "mine_options has the key 'rank_mix', which does not exist.*'rank_m"),
        ({"mine_options": {"group_by": "rank"}}, "group_by is 'rank'; choose one of"),
        (
            {"on_bad_sample": "skip"},
            "mine_every encodes all rows, also those that on_bad_sample: skip would pass over",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_keys_of_mining_that_do_not_go_together(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, train_data="x", **(EVERY_EPOCH | changes))
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe)


def test_a_stream_cannot_be_mined_again(mined: Path, tmp_path: Path) -> None:
    """Neither by a recipe, before anything is read, nor by a Trainer that is given one."""
    stream = {"streaming": True, "stream_buffer_size": 8}
    with pytest.raises(ValueError, match="mine_every has to see all rows at once, which a stream does not"):
        load_recipe(write_recipe(tmp_path, train_data="x", **EVERY_EPOCH, **stream))
    data = {"train_data": str(mined / "mined"), "media_root": str(mined)}
    streamed = load_recipe(write_recipe(tmp_path, batch_groups=True, **data, **stream))
    pairs = load_training_pairs(streamed.data, use_negatives=False, whole_groups=True)
    args = load_recipe(write_recipe(tmp_path, **data, **EVERY_EPOCH)).training
    model, processor = tiny_model()
    with pytest.raises(ValueError, match="mine_every has to see all rows at once, which a stream does not"):
        LlaveTrainer(model, args, train_dataset=pairs, processing_class=processor)
