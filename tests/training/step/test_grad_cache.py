"""Gradient caching changes no loss and no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import AutocastKwargs
from step_helpers import (
    furthest,
    is_copy,
    make_pairs,
    make_trainer,
    peak_of_kept_bytes,
    run_steps,
    trainer_of,
    write_media,
)

from llave_hf.data.samples import Pair
from llave_hf.training.step.grad_cache import Part, cached_backward
from llave_hf.training.step.graph_memory import GIB, GraphMemory
from llave_hf.training.trainer import LlaveTrainer

TOLERANCE = {True: 1e-10, False: 1e-5}
SOME = {"graph_memory_gb": 0.0015}  # of the tiny model: about three of a batch's micro-batches


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media") / "root")


CASES: dict[str, dict[str, Any]] = {
    "one sample at a time": {"mini_batch_size": 1},
    "three samples": {"mini_batch_size": 3},
    "a kind at a time": {"gradient_caching": True},
    "a budget of tokens": {"mini_batch_num_tokens": 120},
    "budget and size": {"mini_batch_num_tokens": 200, "mini_batch_size": 2},
    "one direction": {"mini_batch_size": 2, "directions": ["query_to_doc"]},
    "negatives": {"mini_batch_num_tokens": 150, "use_negatives": True, "hardness_mode": "all_negatives"},
    "some graphs kept": {"mini_batch_size": 2, **SOME},
    "all graphs kept": {"mini_batch_size": 2, "graph_memory_gb": 1.0},
    "some graphs kept, frozen tower": {"mini_batch_size": 2, **SOME, "freeze": ["vision_tower"]},
    "some graphs kept, frozen language model": {"mini_batch_size": 2, **SOME, "freeze": ["language_model"]},
    "some graphs kept, checkpointed": {"mini_batch_size": 2, **SOME, "checkpointed": True},
    "frozen tower": {"mini_batch_size": 2, "freeze": ["vision_tower"]},
    "frozen tower, forgotten": {"mini_batch_size": 2, "freeze": ["vision_tower"], "vision_memory_gb": 0},
    "frozen language model": {"mini_batch_size": 2, "freeze": ["language_model"]},
    "projector alone": {"mini_batch_size": 2, "freeze": ["language_model", "vision_tower"]},
    "checkpointed": {"mini_batch_size": 2, "checkpointed": True},
}


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_every_gradient_are_those_of_the_whole_batch(
    root: Path, name: str, double: bool, accumulated: int
) -> None:
    options = CASES[name]
    rows = make_pairs(root, 7 * accumulated, kinds=("mixed", "mixed", "video"), negatives=True)
    batches = [rows[7 * n : 7 * n + 7] for n in range(accumulated)]
    plain = {key: options[key] for key in ("directions", "use_negatives", "hardness_mode", "freeze") if key in options}
    whole = make_trainer(root, double=double, **plain)
    assert not whole.args.caches_gradients
    cached = make_trainer(root, double=double, **options)
    assert cached.args.caches_gradients
    expected_losses, expected = run_steps(whole, batches)
    losses, found = run_steps(cached, batches)
    assert losses == pytest.approx(expected_losses, rel=TOLERANCE[double])
    assert found.keys() == expected.keys()
    assert furthest(found, expected) < TOLERANCE[double]


@pytest.mark.parametrize("frozen", [False, True], ids=["trained tower", "frozen tower"])
@pytest.mark.parametrize("gib", [0.0, *SOME.values(), 1.0])
def test_dropout_draws_the_same_numbers_in_both_passes_and_goes_on_after_them(
    root: Path, gib: float, frozen: bool
) -> None:
    """And the trial of what is left out, at the first step, draws none."""
    rows = make_pairs(root, 6)
    found = []
    for caching in (False, True):
        trainer = make_trainer(
            root,
            double=True,
            dropout=0.5,
            mini_batch_size=2,
            gradient_caching=caching,
            graph_memory_gb=gib,
            freeze=["vision_tower"] if frozen else [],
        )
        torch.manual_seed(0)
        found.append((*run_steps(trainer, [rows]), torch.rand(1).item()))
    (losses, expected, after), (cached_losses, gradients, cached_after) = found
    assert cached_losses == pytest.approx(losses, rel=1e-10)
    assert furthest(gradients, expected) < 1e-10
    assert cached_after == after
    torch.manual_seed(1)
    other, _ = run_steps(make_trainer(root, double=True, dropout=0.5, mini_batch_size=2), [rows])
    assert other != pytest.approx(losses, rel=1e-3)  # there was dropout


def test_under_autocast(root: Path) -> None:
    """bfloat16 in the model's products, both ways through `accelerate`'s wrapper.

    Autocast casts each weight once a forward, so the whole batch's gradients are summed in bfloat16; micro-batches
    with a forward each are summed in float32. Without that cache both are.
    """
    rows = make_pairs(root, 6, negatives=True)
    found = []
    for caching in (False, True):
        trainer = make_trainer(root, mini_batch_size=2, gradient_caching=caching, bf16=True)
        trainer.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
        model = trainer.accelerator.prepare_model(trainer.model)
        dtypes: set[torch.dtype] = set()
        layer = trainer.model.backbone.language_model.layers[0].mlp.up_proj
        layer.register_forward_hook(lambda module, args, output, dtypes=dtypes: dtypes.add(output.dtype))
        found.append(run_steps(trainer, [rows], model=model))
        assert dtypes == {torch.bfloat16}
    (losses, expected), (cached_losses, gradients) = found
    assert cached_losses == losses
    assert furthest(gradients, expected) < 1e-5


@pytest.mark.parametrize("gib", [*SOME.values(), 1.0])
def test_kept_graphs_share_autocasts_copies_of_weights(root: Path, gib: float) -> None:
    """And no gradient is lost to a copy that was made without one, nor summed in another precision."""
    rows = make_pairs(root, 6)
    found, copies = [], []
    for budget in (0.0, gib):
        trainer = make_trainer(root, mini_batch_size=2, gradient_caching=True, graph_memory_gb=budget, bf16=True)
        model = trainer.accelerator.prepare_model(trainer.model)
        run_steps(trainer, [rows], model=model)  # what a first step tries makes copies of its own
        up = trainer.model.backbone.language_model.layers[0].mlp.up_proj
        shape, seen = up.weight.shape, []

        def keep(tensor: torch.Tensor, shape: Any = shape, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            if tensor.shape in (shape, shape[::-1]):
                seen.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found.append(run_steps(trainer, [rows], model=model))
        copies.append(len({tensor.data_ptr() for tensor in seen if is_copy(tensor, up)}))
    (losses, expected), (kept_losses, gradients) = found
    assert kept_losses == losses
    assert gradients.keys() == expected.keys()
    assert furthest(gradients, expected) < 1e-6
    micro_batches = len(trainer.data_collator(rows)["micro_batches"])
    assert copies[0] == micro_batches > 3
    # One for all that are kept; the others are run again, each with its own.
    assert copies[1] == 1 if gib == 1.0 else 1 < copies[1] < micro_batches - 1


def test_with_adapters(root: Path) -> None:
    peft = pytest.importorskip("peft")
    rows = make_pairs(root, 6)
    found = []
    for caching in (False, True):
        torch.manual_seed(0)
        trainer = make_trainer(root, double=True)
        settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = peft.get_peft_model(trainer.model, settings).double()
        trainer = trainer_of(model, trainer.processing_class, root, mini_batch_size=2, gradient_caching=caching)
        found.append(run_steps(trainer, [rows]))
    (losses, expected), (cached_losses, gradients) = found
    assert cached_losses == pytest.approx(losses, rel=1e-10)
    assert all("lora" in name for name in expected)
    assert any("vision_tower" in name for name in expected)
    assert furthest(gradients, expected) < 1e-10


def graph_sizes(trainer: LlaveTrainer, pairs: list[Pair]) -> list[float]:
    memory = GraphMemory(trainer.model.config, trainer.args, tower_runs_twice=True)
    return [memory.size(micro_batch) for micro_batch in trainer.data_collator(pairs)["micro_batches"]]


@pytest.mark.parametrize("limit", [{"mini_batch_size": 2}, {"mini_batch_num_tokens": 100}], ids=["size", "tokens"])
def test_memory_for_the_graph_does_not_grow_with_the_batch(root: Path, limit: dict[str, int]) -> None:
    kinds = ("text", "image")
    few, many = make_pairs(root, 10, kinds=kinds), make_pairs(root, 100, kinds=kinds)
    cached, whole = make_trainer(root, **limit), make_trainer(root, **limit, gradient_caching=False)
    peak = peak_of_kept_bytes(cached, few)
    assert peak_of_kept_bytes(cached, many) < 1.1 * peak
    assert peak_of_kept_bytes(whole, many) > 5 * peak_of_kept_bytes(whole, few) > 10 * peak
    largest = max(graph_sizes(cached, many))
    twice = make_trainer(root, **limit, graph_memory_gb=2 * largest / GIB)
    # Rows that share a prefix take less than is estimated.
    assert 1.4 * peak < peak_of_kept_bytes(twice, many) < 2.2 * peak


def test_a_batch_that_trains_nothing_leaves_zero_gradients(root: Path) -> None:
    """Texts alone while the language model is frozen: other ranks may hold pictures, and wait for this one."""
    trainer = make_trainer(root, mini_batch_size=2, freeze=["language_model"])
    losses, gradients = run_steps(trainer, [make_pairs(root, 5, kinds=("text",))])
    assert losses[0] > 0
    assert gradients
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_with_dropout(root: Path) -> None:
    rows = make_pairs(root, 6)
    found = []
    for caching in (False, True):
        trainer = make_trainer(
            root, double=True, dropout=0.5, mini_batch_size=2, gradient_caching=caching, use_cpu=False
        )
        torch.manual_seed(0)
        found.append(run_steps(trainer, [rows]))
    (losses, expected), (cached_losses, gradients) = found
    assert cached_losses == pytest.approx(losses, rel=1e-10)
    assert furthest(gradients, expected) < 1e-10


def test_parameters_of_the_loss_get_their_gradients_too() -> None:
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(3, 2).double(), torch.randn(5, 3, dtype=torch.float64)
    temperature = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def loss_of(embeddings: torch.Tensor) -> torch.Tensor:
        return (embeddings @ embeddings.T / temperature).logsumexp(1).mean()

    expected = torch.autograd.grad(loss_of(model(inputs)), [model.weight, temperature])
    parts = [Part({"inputs": inputs[3:]}, 1), Part({"inputs": inputs[:2]}, None), Part({"inputs": inputs[:3]}, 0)]
    loss = cached_backward(
        parts,
        embed=lambda part: model(part["inputs"]),
        loss_of=loss_of,
        backward=torch.Tensor.backward,
        device=torch.device("cpu"),
    )
    torch.testing.assert_close(loss, loss_of(model(inputs)).detach())
    torch.testing.assert_close((model.weight.grad, temperature.grad), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gib", [0.0, *SOME.values(), 1.0])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_micro_batches_that_keep_their_graph_run_once_and_pooled_tokens_alone_through_the_last_block(
    root: Path, dropout: float, gib: float
) -> None:
    trainer = make_trainer(root, mini_batch_size=2, graph_memory_gb=gib)
    decoder = trainer.model.backbone.language_model
    decoder.layers[-1].mlp.dropout = torch.nn.Dropout(dropout)  # as an adapter's: it would draw other numbers
    seen: list[torch.Size] = []
    runs: list[torch.Size] = []
    decoder.layers[-1].mlp.up_proj.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    decoder.register_forward_hook(lambda module, args, output: runs.append(output.last_hidden_state.shape))
    batch = trainer.data_collator(make_pairs(root, 5, kinds=("text", "image")))
    shapes = [micro_batch["input_ids"].shape for micro_batch in batch["micro_batches"]]
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model, dict(batch))  # tries what it leaves out
    seen.clear()
    runs.clear()
    trainer.training_step(trainer.model, batch)
    assert len(shapes) > 3
    again = [shape[:2] for shape in runs[len(shapes) :]]
    assert [shape[:2] for shape in runs[: len(shapes)]] == shapes
    kept = trainer._cached_step.graphs.chosen(batch["micro_batches"], but_last=False)
    assert again == [shapes[number] for number in range(len(shapes)) if number not in kept]
    assert bool(again) == (gib < 1)
    assert len(again) < len(shapes)
    assert [shape[:-1] for shape in seen] == [shape[:2] if dropout else shape[:1] for shape in runs]
    assert not decoder.layers[-1].mlp._forward_hooks
