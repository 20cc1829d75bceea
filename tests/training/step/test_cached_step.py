"""A cached step on its own: a model, a processor, an accelerator and arguments, without a trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from helpers import tiny_model
from step_helpers import furthest, gradients_of, make_pairs, to_double, write_media
from torch import nn

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.data.batches.collator import LlaveCollator
from llave_hf.training.engines.engines import Engine
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.step.cached_step import CachedStep, engine_of_step
from llave_hf.training.step.lean_forward import LeanForward
from llave_hf.training.tuning.parts import freeze_parts

FSDP = Engine(spreads=True, alike=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


class Wrapped(nn.Module):
    """As DDP: says when it does not exchange gradients."""

    def __init__(self, model: LlaveModel) -> None:
        super().__init__()
        self.model = model
        self.exchanges = True
        self.seen: list[bool] = []  # of each backward, whether gradients were exchanged

    def forward(self, **inputs: Any) -> Any:
        output = self.model(**inputs)
        if output.embeddings.requires_grad:
            output.embeddings.register_hook(lambda _: self.seen.append(self.exchanges))
        return output

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self.exchanges = False
        yield
        self.exchanges = True


def spread_out(embeddings: torch.Tensor) -> torch.Tensor:
    """A loss of all embeddings `(M, D)` together."""
    return (embeddings @ embeddings.T / 0.1).logsumexp(1).mean()


def step_and_batch(
    root: Path, accelerator: Any = None, *, engine: Engine | None = None, lean: bool = False, **settings: Any
) -> tuple[CachedStep, list[dict[str, Any]]]:
    """A step of the tiny model in float64, and micro-batches of texts and of pictures, of two samples at most."""
    model, processor = tiny_model()
    to_double(model).train()
    args = LlaveTrainingArguments(output_dir=str(root / "out"), use_cpu=True, report_to="none", **settings)
    freeze_parts(model, args.freeze)
    accelerator = accelerator or Accelerator(cpu=True)
    step = CachedStep(
        model,
        processor,
        accelerator,
        args,
        engine=engine or engine_of_step(accelerator, model),
        lean=LeanForward(model, processor.normalised) if lean else LeanForward(),
        prepare=processor.normalised,
    )
    return step, LlaveCollator(processor, 2, None)(make_pairs(root, 6))["micro_batches"]


def expected_of(step: CachedStep, batch: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients with one graph of the whole batch, which are then forgotten."""
    processor: LlaveProcessor = step.processor
    loss = spread_out(torch.cat([step.model(**processor.normalised(part)).embeddings for part in batch]))
    loss.backward()
    gradients = gradients_of(step.model)
    step.model.zero_grad()
    return loss.item(), gradients


@pytest.mark.parametrize("gib", [0.0, 1.0])
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("frozen", [[], ["vision_tower"]], ids=str)
def test_loss_and_gradients_are_those_of_one_graph(root: Path, frozen: list[str], lean: bool, gib: float) -> None:
    step, batch = step_and_batch(root, lean=lean, freeze=frozen, graph_memory_gb=gib)
    assert bool(step.tower.layers) is bool(frozen)
    assert len(batch) > 3
    loss, gradients = expected_of(step, batch)
    assert step(step.model, batch, spread_out).item() == pytest.approx(loss, rel=1e-12)
    found = gradients_of(step.model)
    assert found.keys() == gradients.keys()
    assert furthest(found, gradients) < 1e-10


def test_ddp_exchanges_gradients_in_the_last_backward_only(root: Path) -> None:
    step, batch = step_and_batch(root, graph_memory_gb=1.0)
    model = Wrapped(step.model)
    _, gradients = expected_of(step, batch)
    step(model, batch, spread_out)
    assert model.seen == [False] * (len(batch) - 1) + [True]
    assert furthest(gradients_of(step.model), gradients) < 1e-10


def test_fsdp_exchanges_gradients_in_each_backward_and_keeps_no_graph(root: Path) -> None:
    step, batch = step_and_batch(root, engine=FSDP, graph_memory_gb=1.0, freeze=["vision_tower"])
    assert step.graphs is None
    assert not step.tower.layers
    model = Wrapped(step.model)
    step(model, batch, spread_out)
    assert model.seen == [True] * len(batch)


class OfDeepspeed:
    """An accelerator that notes, of each backward, whether it ends an update, and with which options."""

    distributed_type = DistributedType.DEEPSPEED

    def __init__(self) -> None:
        plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 2}})
        self.state = SimpleNamespace(deepspeed_plugin=plugin)
        self.gradient_state = Accelerator(cpu=True).gradient_state
        self.seen: list[tuple[bool, dict[str, Any]]] = []

    def backward(self, loss: torch.Tensor, **options: Any) -> None:
        self.seen.append((self.gradient_state.sync_gradients, options))
        loss.backward()


@pytest.mark.parametrize("accumulates", [False, True])
def test_deepspeed_ends_an_update_with_the_last_micro_batch_only(root: Path, accumulates: bool) -> None:
    accelerator = OfDeepspeed()
    step, batch = step_and_batch(root, accelerator)
    accelerator.gradient_state._set_sync_gradients(not accumulates)
    try:
        step(step.model, batch, spread_out)
        assert accelerator.gradient_state.sync_gradients is not accumulates
    finally:
        accelerator.gradient_state._set_sync_gradients(True)
    options = {"scale_wrt_gas": False}
    assert accelerator.seen == [(False, options)] * (len(batch) - 1) + [(not accumulates, options)]


def test_the_last_micro_batch_must_hold_a_picture_where_texts_train_nothing() -> None:
    model, _ = tiny_model()
    accelerator = Accelerator(cpu=True)
    assert not engine_of_step(accelerator, model).last
    freeze_parts(model, ["language_model"])
    assert engine_of_step(accelerator, model).last
