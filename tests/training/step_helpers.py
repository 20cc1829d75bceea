"""One training step, its gradients, and batches with everything in them; for one process and for several."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from helpers import checkpoint_activations, picture, tiny_model
from torch import nn

from llave_hf import LlaveModel
from llave_hf.data.samples import Pair, Sample
from llave_hf.training.objective.teacher import Teacher
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.trainer import LlaveTrainer

TEXT = "a dog in the snow near an old house that nobody has seen for years"
SIZES = [(28, 28), (60, 30), (20, 70), (33, 33), (56, 56)]


def write_media(root: Path) -> Path:
    """Five pictures of different shapes, so of different lengths, and a video as a folder of frames."""
    (root / "clip").mkdir(parents=True)
    for number, size in enumerate(SIZES):
        picture(*size, seed=number).save(root / f"{number}.png")
    for number in range(3):
        picture(28, 28, seed=10 + number).save(root / "clip" / f"{number}.png")
    return root


def make_pairs(
    root: Path, count: int, *, kinds: Sequence[str] = ("mixed",), negatives: bool = False, judged: bool = False
) -> list[Pair]:
    """Pairs of texts of many lengths; a row's kind is `kinds[row % len(kinds)]`.

    `text`: text to text. `image`: text to picture. `video`: text to video. `mixed`: in turn text to picture, picture
    and text to text, text to text, and the same picture again. `judged`: with labels, hardness and scores.
    """

    def text(row: int, salt: int) -> str:
        words = TEXT.split()
        return " ".join(words[: 1 + (5 * row + salt) % len(words)]) + f" {row} {salt}"

    def image(row: int) -> Sample:
        return Sample("\nthe image\n", (f"{row % len(SIZES)}.png",), None, str(root))

    pairs = []
    for row in range(count):
        query, document = Sample(text(row, 0)), Sample(text(row, 7))
        kind = kinds[row % len(kinds)]
        if kind == "image" or (kind == "mixed" and row % 4 in (0, 3)):
            document = image(row // 2)
        elif kind == "mixed" and row % 4 == 1:
            query = Sample("\nwhat is it?\n", (f"{row % len(SIZES)}.png",), None, str(root))
        elif kind == "video":
            document = Sample(f"\nclip {row}\n", (), "clip", str(root))
        others = (Sample(text(row, 3)), image(row + 1))[: row % 3] if negatives else ()
        said: dict[str, Any] = {}
        if judged:
            levels = tuple(0.1 * (row + place) % 1 for place in range(len(others)))
            said = {"label": row % 4 - 1, "hardness": 0.3 * row % 1, "negative_hardness": levels}
            said |= {"score": 0.9 - 0.07 * row % 0.3, "negative_scores": tuple(0.8 - 0.5 * x for x in levels)}
        pairs.append(Pair(query, document, others, "task", row, **said))
    return pairs


def make_trainer(
    root: Path, *, double: bool = False, dropout: float = 0.0, checkpointed: bool = False, **changes: Any
) -> LlaveTrainer:
    """A trainer of the tiny model, without data; always the same weights.

    Args:
        root: Where pictures and output lie.
        double: Whether in float64.
        dropout: Of the language model's attention.
        checkpointed: Whether layers forget their activations until backward.
        **changes: Of the arguments.
    """
    model, processor = tiny_model()
    for layer in model.backbone.language_model.layers:
        layer.self_attn.attention_dropout = dropout
    if checkpointed:
        checkpoint_activations(model)
    trainer = trainer_of(to_double(model) if double else model, processor, root, **changes)
    if double:
        trainer.objective.loss.double()
    return trainer


def give_teacher(trainer: LlaveTrainer, pairs: Iterable[Pair], dimensions: int = 12) -> None:
    """Random vectors for every sample of these pairs, the same for the same samples in every run.

    A key has the folder of the pictures in it, which is another one in each run: vectors are drawn without it.
    """
    samples = {s.key(): s for pair in pairs for s in (pair.query, pair.positive, *pair.negatives)}
    keys = np.sort(np.array(list(samples)))
    seeds = [abs(replace(samples[int(key)], media_root=None).key()) for key in keys]
    vectors = np.stack([np.random.default_rng(seed).normal(size=dimensions) for seed in seeds])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    trainer.objective.teacher = Teacher(keys, vectors.astype(np.float32))


def move_average(trainer: LlaveTrainer) -> None:
    """As if the model had moved on from its average: else their cosines are the same."""
    assert trainer.objective.average is not None
    generator = torch.Generator().manual_seed(0)
    for parameter in trainer.objective.average.model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator) * parameter.data.std()


def trainer_of(model: nn.Module, processor: Any, root: Path, **changes: Any) -> LlaveTrainer:
    options = {
        "per_device_train_batch_size": 4,
        "temperature": 0.1,
        "hardness_strength": 3.0,
        "use_cpu": True,
        "report_to": "none",
        **changes,
    }
    arguments = LlaveTrainingArguments(output_dir=str(root / "out"), **options)
    return LlaveTrainer(model, arguments, processing_class=processor)


def to_double(model: LlaveModel) -> LlaveModel:
    """In float64 throughout: Qwen2's norms go through float32 otherwise. (Qwen3.5's linear attention still does.)"""

    def norm(self: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(norm, module)
    return model.double()


def run_steps(
    trainer: LlaveTrainer, batches: Iterable[list[Pair]], *, model: nn.Module | None = None
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Accumulates the batches' gradients as Trainer's loop does; the losses, and the gradients by name."""
    model = model or trainer.model
    batches = list(batches)
    trainer.model.zero_grad()
    trainer.objective.loss.zero_grad()
    trainer.current_gradient_accumulation_steps = len(batches)
    losses = []
    for number, pairs in enumerate(batches):
        last = number == len(batches) - 1
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        batch = trainer.data_collator(pairs)
        if last:
            losses.append(trainer.training_step(model, batch).item())
        else:
            with trainer.accelerator.no_sync(model):
                losses.append(trainer.training_step(model, batch).item())
    return losses, gradients_of(trainer.model) | gradients_of(trainer.objective.loss)


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def furthest(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest relative error of a tensor: |found - expected| / |expected|, in norms; a missing tensor is zero.

    Tensors with less than a tenth of the largest norm are measured by that: some gradients are nothing but rounding
    (those of a key's bias, which softmax does not see).
    """
    assert found.keys() <= expected.keys()
    norms = {name: tensor.norm().item() for name, tensor in expected.items()}
    floor = max(norms.values()) / 10
    assert floor > 0
    zero = torch.zeros((), device=next(iter(expected.values())).device)
    return max(
        (found.get(name, zero) - tensor).norm().item() / max(norms[name], floor) for name, tensor in expected.items()
    )


def peak_of_kept_bytes(trainer: LlaveTrainer, pairs: list[Pair]) -> int:
    """The most bytes that autograd kept for backward at one time within a step, without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
    holders: Counter[int] = Counter()  # of a storage: several operations keep the same one
    now = most = 0

    def forget(storage: int, size: int) -> None:
        nonlocal now
        holders[storage] -= 1
        now -= size if not holders[storage] else 0

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal now, most
            self.tensor = tensor
            storage, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            if storage not in weights:
                holders[storage] += 1
                now += size if holders[storage] == 1 else 0
                most = max(most, now)
                weakref.finalize(self, forget, storage, size)

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run_steps(trainer, [pairs])
    return most


def is_copy(tensor: torch.Tensor, model: nn.Module) -> bool:
    """Whether it is a weight in another type: every number of it is one."""
    if tensor.dim() != 2:
        return False
    weights = (weight for weight in model.parameters() if weight.dim() == 2 and weight.dtype != tensor.dtype)
    return any(
        one.shape == tensor.shape and torch.equal(one.to(tensor.dtype), tensor)
        for weight in weights
        for one in (weight, weight.t())
    )
