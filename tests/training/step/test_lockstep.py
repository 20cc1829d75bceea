"""Order of micro-batches and fillers, with two ranks' counts given by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture, tiny_model
from step_helpers import make_pairs, make_trainer, write_media

from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.model_identity import identify, weights_revision
from llave_hf.training.engines.engines import Engine, whole_tensors
from llave_hf.training.step import lockstep
from llave_hf.training.step.lockstep import (
    KINDS,
    in_order,
    kind_number,
    make_filler,
    order_parts,
    step_engine,
    tower_calls,
)
from llave_hf.training.step.lockstep_encoding import LockstepEncoder

CPU = torch.device("cpu")
ALONE = Engine()
FSDP = Engine(spreads=True, alike=True)
ZERO3 = Engine(spreads=True, alike=True, first=True)
OFFLOADED = Engine(spreads=True, alike=True, first=True, last=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


def places_and_kinds(parts: list[lockstep.Part]) -> list[tuple[int | None, int]]:
    return [(part.place, kind_number(part.inputs)) for part in parts]


def test_one_rank_runs_what_it_has_texts_first(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    batch = trainer.data_collator(make_pairs(root, 4))["micro_batches"]
    parts = order_parts(batch[::-1], trainer.processing_class, FSDP, device=CPU)
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
    other = torch.tensor([1, 2, 0, 1])
    monkeypatch.setattr(lockstep.distributed, "all_gather", lambda counts: torch.cat([counts, other]))
    parts = order_parts(texts, trainer.processing_class, FSDP if sharded else ALONE, device=CPU)
    own = [(0, 0), (1, 0)]
    assert places_and_kinds(parts) == ([*own, (None, 1), (None, 1), (None, 3)] if sharded else own)


@pytest.mark.parametrize("kinds", [("text",), ("mixed",), ("video",)])
@pytest.mark.parametrize("backwards", [True, False])
def test_the_ends_of_a_step_reach_every_part_where_the_engine_asks_for_it(
    root: Path, kinds: tuple[str, ...], backwards: bool
) -> None:
    """A picture does; what stands between them is in the order of `KINDS`."""
    trainer = make_trainer(root, mini_batch_size=2)
    batch = trainer.data_collator(make_pairs(root, 4, kinds=kinds))["micro_batches"]
    image = len(KINDS) - 1
    for engine in (ZERO3, OFFLOADED):
        parts = order_parts(batch, trainer.processing_class, engine, device=CPU, backwards=backwards)
        assert sorted(part.place for part in parts if part.place is not None) == list(range(len(batch)))
        found = [kind_number(part.inputs) for part in parts]
        assert found[0] == image and found[1:] == sorted(found[1:])
        if engine.last and backwards:
            assert len(found) > 1 and found[-1] == image
        fillers = sum(part.place is None for part in parts)
        assert fillers <= (2 if engine.last and backwards else 1)
    plain = order_parts(batch, trainer.processing_class, FSDP, device=CPU)
    assert all(part.place is not None for part in plain)


def test_what_is_trained_decides_what_the_ends_must_reach() -> None:
    assert step_engine(OFFLOADED, language_trains=True, others_train=True) == OFFLOADED
    assert step_engine(OFFLOADED, language_trains=True, others_train=False) == FSDP
    assert step_engine(ALONE, language_trains=False, others_train=True) == Engine(last=True)


def test_embeddings_come_back_in_the_order_of_the_batch_with_a_backward_through_fillers(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    batch = trainer.data_collator(make_pairs(root, 4, kinds=("text",)))["micro_batches"]
    parts = order_parts(batch[::-1], trainer.processing_class, OFFLOADED, device=CPU)
    rows = [torch.full((len(part.inputs["input_ids"]), 3), float(number)) for number, part in enumerate(parts)]
    given = torch.cat(rows).requires_grad_()
    ordered = in_order(given, parts)
    expected = torch.cat([rows[1 + place] for place in range(len(batch))])
    assert torch.equal(ordered, expected)
    ordered.sum().backward()
    counted = torch.cat(
        [torch.full_like(row, float(part.place is not None)) for row, part in zip(rows, parts, strict=True)]
    )
    assert torch.equal(given.grad, counted)


def test_where_texts_have_no_gradient_a_picture_comes_last(root: Path) -> None:
    trainer = make_trainer(root, mini_batch_size=2)
    texts = trainer.data_collator(make_pairs(root, 1, kinds=("text",)))["micro_batches"]
    parts = order_parts(texts, trainer.processing_class, Engine(last=True), device=CPU)
    assert places_and_kinds(parts) == [(0, 0), (None, 3)]


def test_encoding_in_step_gives_the_vectors_of_encoding_alone(root: Path) -> None:
    model, processor = tiny_model()
    inputs = [
        "a text",
        {"image": picture()},
        {"text": "and\n", "video": [picture(seed=1), picture(seed=2)]},
        "another",
    ]
    alone, in_step = LlaveEncoder(model, processor), LockstepEncoder(model, processor, model)
    with in_step.share():
        found = in_step.encode(inputs)
    assert np.abs(found - alone.encode(inputs)).max() < 1e-6
    assert weights_revision(in_step, model, whole_tensors(model)) == identify(alone).revision
    with pytest.raises(RuntimeError, match="within share"):
        in_step.encode(inputs)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_filler_runs(kind: int) -> None:
    model, processor = tiny_model()
    filler = make_filler(processor, kind)
    assert kind_number(filler) == kind
    assert tower_calls(filler) == len(KINDS[kind])
    assert model(**filler).embeddings.shape == (1, 24)
