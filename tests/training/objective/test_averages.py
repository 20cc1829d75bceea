"""Moving averages without a trainer: of a whole model, and of one that FSDP2 spreads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist  # noqa: TID251  # starts the group that is under test
from helpers import tiny_model
from step_helpers import make_pairs, write_media
from torch.distributed.device_mesh import init_device_mesh  # noqa: TID251
from torch.distributed.fsdp import fully_shard  # noqa: TID251

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.data.batches.collator import LlaveCollator
from llave_hf.training.engines.engines import Engine
from llave_hf.training.objective.moving_average import Average, MovingAverage
from llave_hf.training.objective.objective import AVERAGE_FILE, Objective
from llave_hf.training.objective.spread_average import SpreadAverage, SpreadModel
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.tuning.parts import freeze_parts

CPU = torch.device("cpu")
DECAY = 0.75


@pytest.fixture
def group() -> Iterator[None]:
    """This process as the only rank of a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def whole_model() -> tuple[LlaveModel, LlaveProcessor]:
    model, processor = tiny_model()
    freeze_parts(model, ["vision_tower"])
    return model, processor


def spread_model() -> SpreadModel:
    model, processor = whole_model()
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.backbone.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return SpreadModel(model, model, processor, Engine(spreads=True, alike=True), CPU)


@torch.no_grad()
def move(model: LlaveModel, amount: float = 0.01) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            getattr(parameter, "_local_tensor", parameter).add_(amount)


def embed(average: Average, processor: LlaveProcessor, root: Path) -> torch.Tensor:
    batch = LlaveCollator(processor, 2, None)(make_pairs(root, 4))["micro_batches"]
    return average.embed(batch, processor.normalised, nullcontext())


def arguments(root: Path, **changes: object) -> LlaveTrainingArguments:
    settings = {"hardness_source": "ema", "ema_decay": DECAY, **changes}
    return LlaveTrainingArguments(output_dir=str(root), use_cpu=True, report_to="none", **settings)


def test_a_spread_model_has_the_averages_of_a_whole_one_and_its_weights_afterwards(
    group: None, tmp_path: Path
) -> None:
    root = write_media(tmp_path / "media")
    (model, processor), spread = whole_model(), spread_model()
    averages = [MovingAverage(model, DECAY), SpreadAverage(spread, DECAY)]
    for moved, average in zip((model, spread.model), averages, strict=True):
        for _ in range(2):
            move(moved)
            average.update()
    expected, found = (average.state_dict() for average in averages)
    assert expected.keys() == found.keys()
    assert not any("vision_tower" in name for name in expected)
    name = "backbone.language_model.layers.0.mlp.up_proj.weight"
    start = whole_model()[0].get_parameter(name)
    torch.testing.assert_close(found[name], start + 0.01 * (0.25 * 2 + 0.75 * 0.25))
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    before = {name: p.full_tensor().clone() for name, p in spread.model.named_parameters()}
    torch.testing.assert_close(embed(averages[1], processor, root), embed(averages[0], processor, root))
    assert all(torch.equal(p.full_tensor(), before[name]) for name, p in spread.model.named_parameters())


def test_either_kind_goes_on_from_what_either_saved(group: None) -> None:
    model, _ = whole_model()
    saved = MovingAverage(model, DECAY)
    move(model)
    saved.update()
    state = saved.state_dict()
    for average in (MovingAverage(whole_model()[0], DECAY), SpreadAverage(spread_model(), DECAY)):
        assert any(not torch.equal(tensor, state[name]) for name, tensor in average.state_dict().items())
        average.load_state_dict(state)
        assert all(torch.equal(tensor, state[name]) for name, tensor in average.state_dict().items())
        with pytest.raises(ValueError, match="the checkpoint averages 1 parameters and"):
            average.load_state_dict({"one": torch.zeros(1)})


def test_an_objective_makes_the_average_of_a_whole_model_at_once_and_saves_it(tmp_path: Path) -> None:
    model, _ = whole_model()
    objective = Objective(arguments(tmp_path), ["task"])
    objective.follow(model)
    assert isinstance(objective.average, MovingAverage)
    objective.begin()
    move(model)
    objective.average.update()
    objective.save_state(str(tmp_path))
    assert (tmp_path / AVERAGE_FILE).exists()
    again = Objective(arguments(tmp_path), ["task"])
    again.follow(whole_model()[0])
    assert again.average is not None
    again.load_state(str(tmp_path))
    expected = objective.average.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.average.state_dict().items())


def test_an_objective_makes_the_average_of_a_spread_model_when_training_begins(group: None, tmp_path: Path) -> None:
    asked: list[SpreadModel] = []

    def spread() -> SpreadModel:
        asked.append(spread_model())
        return asked[-1]

    objective = Objective(arguments(tmp_path), ["task"])
    objective.follow_spread(spread)
    assert objective.average is None
    assert not asked
    objective.load_state(None)
    objective.begin()
    assert isinstance(objective.average, SpreadAverage)
    assert len(asked) == 1


def test_without_ema_there_is_no_average(tmp_path: Path) -> None:
    objective = Objective(arguments(tmp_path, hardness_source="self"), ["task"])
    objective.follow(whole_model()[0])
    objective.begin()
    assert objective.average is None
