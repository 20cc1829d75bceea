"""Training runs on data as it is published: pictures inside tables, lists as text, shards of tar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import write_recipe
from published import PUBLISHED
from tables import picture_bytes, write_archive
from test_training import launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


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


@pytest.mark.parametrize("streaming", [False, True])
def test_published_data_train(tmp_path: Path, streaming: bool) -> None:
    recipe = write_recipe(
        tmp_path,
        train_data=entries(tmp_path, streaming=streaming),
        streaming=streaming,
        stream_buffer_size=8,
        use_negatives=True,
        per_device_train_batch_size=2,
        dataloader_num_workers=1,
        max_steps=6,
        save_steps=3,
        train_split=None,
    )
    said = launch(recipe, 2)
    assert "'train_loss'" in said or "train_loss" in said
    state = json.loads((tmp_path / "out/checkpoint-6/trainer_state.json").read_text())
    losses = [step["loss"] for step in state["log_history"] if "loss" in step]
    assert len(losses) == 6 and all(0 < loss < 20 for loss in losses)
