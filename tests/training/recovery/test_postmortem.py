"""A post-mortem of a run that is no trainer: when it stops, and what it keeps."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import tiny_model
from safetensors.torch import load_file
from step_helpers import make_pairs, write_media

from llave_hf import LlaveProcessor
from llave_hf.data.batches.collator import LlaveCollator
from llave_hf.errors import UserError
from llave_hf.training.recovery.bad_samples import TracedCollator
from llave_hf.training.recovery.postmortem import PostMortem

WEIGHT = "backbone.language_model.layers.1.mlp.up_proj.weight"


class Run:
    """Of the tiny model, at step 6 of 10."""

    def __init__(self, *, loss: float | None = 0.5) -> None:
        self.model, self.processor = tiny_model()
        self.state = SimpleNamespace(global_step=6, max_steps=10)
        self.loss = loss
        self.repeated: list[dict[str, Any]] = []

    def save_model(self, output_dir: str) -> None:
        self.model.save_pretrained(output_dir)

    def gradients_again(self, batches: Sequence[dict[str, Any]]) -> float | None:
        self.repeated = list(batches)
        if self.loss is not None:
            self.model.get_parameter(WEIGHT).grad = torch.full_like(self.model.get_parameter(WEIGHT), torch.inf)
        return self.loss


def watched(run: Run, root: Path) -> tuple[PostMortem, dict[str, Any]]:
    """A post-mortem of it, and a batch of three pairs."""
    loss: Any = SimpleNamespace(statistics=None)
    found = PostMortem(run, ["task"], output_dir=str(root / "out"), processor=run.processor, loss=loss)
    return found, batch_of(run.processor, root)


def batch_of(processor: LlaveProcessor, root: Path) -> dict[str, Any]:
    pairs = make_pairs(write_media(root / "media"), 3, kinds=("text", "image"))
    batch = TracedCollator(LlaveCollator(processor, 2, None), None, skip=False)(pairs)
    del batch["bad_samples"]  # a run takes them out first
    return batch


def test_finite_numbers_stop_nothing_and_an_update_begins_anew(tmp_path: Path) -> None:
    post_mortem, batch = watched(Run(), tmp_path)
    post_mortem.begin(batch)
    post_mortem.check_embeddings(torch.ones(5, 8))
    post_mortem.check_gradient(torch.tensor(1.5), scaled=False)
    assert post_mortem.batches == []
    assert not (tmp_path / "out").exists()


def test_embeddings_that_are_not_finite_are_kept_with_their_rows_and_weights(tmp_path: Path) -> None:
    run = Run()
    post_mortem, batch = watched(run, tmp_path)
    post_mortem.begin(batch)
    embeddings = torch.ones(sum(len(part["input_ids"]) for part in batch["micro_batches"]), 8)
    embeddings[batch["query_index"][1], 3] = torch.nan
    with pytest.raises(UserError, match=r"^step 7: embeddings are not finite \(1 rows, of rank 0: task row 1\)"):
        post_mortem.check_embeddings(embeddings)
    folder = tmp_path / "out" / "postmortem-7"
    report = json.loads((folder / "report.json").read_text())
    assert (report["step"], report["steps"], report["not_finite"]) == (7, 10, "embeddings")
    assert [row["finite"] for row in json.loads((folder / "rank-0.json").read_text())[0]] == [True, False, True]
    kept = load_file(folder / "rank-0.safetensors")
    assert kept["embeddings"].isnan().sum() == 1
    assert kept["batch.0.micro_batches.0.input_ids"].equal(batch["micro_batches"][0]["input_ids"])
    assert load_file(folder / "model" / "model.safetensors")[WEIGHT].equal(run.model.get_parameter(WEIGHT).detach())
    assert not run.repeated


def test_a_gradient_that_is_not_finite_is_computed_again_of_all_batches_of_the_update(tmp_path: Path) -> None:
    run = Run()
    post_mortem, batch = watched(run, tmp_path)
    post_mortem.begin(batch)
    post_mortem.begin(copy.deepcopy(batch))
    with pytest.raises(UserError, match=f"^step 7: the gradient is not finite .*first such gradient: {WEIGHT}"):
        post_mortem.check_gradient(torch.tensor(torch.nan), scaled=False)
    assert len(run.repeated) == 2
    told = json.loads((tmp_path / "out" / "postmortem-7" / "report.json").read_text())["ranks"][0]
    assert told["loss"] == 0.5
    assert told["gradient_not_finite"] == WEIGHT
    assert told["parameter_not_finite"] is None


def test_an_engine_that_keeps_no_gradient_is_stopped_without_one(tmp_path: Path) -> None:
    post_mortem, batch = watched(Run(loss=None), tmp_path)
    post_mortem.begin(batch)
    with pytest.raises(UserError, match="the gradient is not finite"):
        post_mortem.check_gradient(float("inf"), scaled=False)
    told = json.loads((tmp_path / "out" / "postmortem-7" / "report.json").read_text())["ranks"][0]
    assert told["loss"] is None
    assert told["gradient_not_finite"] is None


def test_an_infinite_gradient_under_a_scaler_is_the_scalers(tmp_path: Path) -> None:
    run = Run()
    post_mortem, batch = watched(run, tmp_path)
    post_mortem.begin(batch)
    post_mortem.check_gradient(torch.tensor(torch.inf), scaled=True)
    assert post_mortem.batches == []
    assert not run.repeated
