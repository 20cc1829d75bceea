"""Order of micro-batches and fillers, with two ranks' counts given by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from step_helpers import make_pairs, make_trainer, write_media

from llave_hf.training import lockstep
from llave_hf.training.lockstep import make_filler, order_parts, tower_calls


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


def places_and_calls(parts: list[lockstep.Part]) -> list[tuple[int | None, int]]:
    return [(part.place, tower_calls(part.inputs)) for part in parts]


def test_one_rank_runs_what_it_has_texts_first(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    batch = trainer.data_collator(make_pairs(root, 4))["micro_batches"]
    parts = order_parts(
        batch[::-1], trainer.processing_class, sharded=True, texts_train=True, device=torch.device("cpu")
    )
    calls = [tower_calls(part.inputs) for part in parts]
    assert calls == sorted(calls)
    assert sorted(part.place for part in parts) == list(range(len(batch)))
    assert all(part.inputs is batch[::-1][part.place] for part in parts)


@pytest.mark.parametrize("sharded", [True, False])
def test_ranks_with_sharded_parameters_run_the_same_modules(
    root: Path, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    texts = trainer.data_collator(make_pairs(root, 2, kinds=("text",)))["micro_batches"]
    other = torch.tensor([1, 2, 1])
    monkeypatch.setattr(lockstep.distributed, "all_gather", lambda counts: torch.cat([counts, other]))
    parts = order_parts(texts, trainer.processing_class, sharded=sharded, texts_train=True, device=torch.device("cpu"))
    own = [(0, 0), (1, 0)]
    assert places_and_calls(parts) == ([*own, (None, 1), (None, 1), (None, 2)] if sharded else own)


def test_where_texts_have_no_gradient_a_picture_comes_last(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    texts = trainer.data_collator(make_pairs(root, 1, kinds=("text",)))["micro_batches"]
    parts = order_parts(texts, trainer.processing_class, sharded=False, texts_train=False, device=torch.device("cpu"))
    assert places_and_calls(parts) == [(0, 0), (None, 1)]


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_filler_runs(calls: int) -> None:
    model, processor = tiny_model()
    filler = make_filler(processor, calls)
    assert tower_calls(filler) == calls
    assert model(**filler).embeddings.shape == (1, 24)
