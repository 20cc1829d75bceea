"""Computes again, on one process, what a run was stopped at, and names the first tensor with NaN or infinity.

python -m llave_hf.training.reproduce OUTPUT_DIR/postmortem-STEP
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainingArguments

from llave_hf.checkpoints.adapters import open_base, with_adapter
from llave_hf.errors import UserError, user_errors
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.objective.objective import Objective
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recovery.postmortem import first_not_finite
from llave_hf.training.step.grad_cache import Part, cached_backward

Tensors = dict[str, torch.Tensor]


def reproduce(folder: str | Path) -> Iterator[str]:
    """What the kept weights make of the kept batches, line by line: weights, embeddings, loss and gradient.

    The batches of all ranks are put together, so the loss is the run's. Of a run with adapters these were kept: their
    base is opened where the run found it, in float32.

    Args:
        folder: A `postmortem-STEP`.

    Raises:
        UserError: The folder is no such, or the base model of its adapter cannot be opened.
    """
    root = Path(folder)
    if not (root / "report.json").exists():
        raise UserError(f"{root} holds no report.json; give a folder postmortem-STEP of a run's output folder.")
    about = json.loads((root / "report.json").read_text(encoding="utf-8"))
    yield f"step {about['step']}: not finite: {about['not_finite']}"
    model = _open(root / "model").train()
    yield _line("weights", first_not_finite(dict(model.named_parameters())))
    ranks = [load_file(path) for path in sorted(root.glob("rank-*.safetensors"), key=_number)]
    for number in range(1 + max(int(name.split(".")[1]) for name in ranks[0] if name.startswith("batch."))):
        parts: list[Tensors] = []
        whole = True
        for rank, tensors in enumerate(ranks):
            own = _micro_batches(tensors, f"batch.{number}.micro_batches.")
            for place, micro_batch in enumerate(own):
                wrong = first_not_finite(micro_batch) or _first_module(model, micro_batch)
                whole = whole and wrong is None
                yield _line(f"rank {rank}, batch {number}, micro-batch {place}", wrong)
            parts += own
        if whole:
            yield from _gradient(
                model,
                root / "model" / "training_args.json",
                parts,
                _joined([_fields(tensors, f"batch.{number}.") for tensors in ranks]),
                about,
            )


def _open(folder: Path) -> nn.Module:
    if not (folder / "adapter_config.json").exists():
        return LlaveModel.from_pretrained(folder)
    return with_adapter(open_base(folder)[1], folder, trainable=True)


def _gradient(
    model: nn.Module, settings: Path, parts: list[Tensors], batch: Tensors, about: Mapping[str, Any]
) -> Iterator[str]:
    given = json.loads(settings.read_text(encoding="utf-8"))
    if given["hardness_source"] in ("teacher", "ema"):
        yield f"loss and gradient: not computed, hardness_source is {given['hardness_source']}"
        return
    theirs = {field.name for field in fields(TrainingArguments)}
    own = {field.name: given[field.name] for field in fields(LlaveTrainingArguments) if field.name not in theirs}
    args = LlaveTrainingArguments(output_dir=str(settings.parent), use_cpu=True, report_to="none", **own)
    objective = Objective(args, about["tasks"])
    loss = cached_backward(
        [Part(micro_batch, place) for place, micro_batch in enumerate(parts)],
        embed=lambda micro_batch: model(**micro_batch).embeddings,
        loss_of=lambda distinct: objective(distinct, batch, about["step"] - 1, about["steps"])[0],
        backward=torch.Tensor.backward,
        device=torch.device("cpu"),
    )
    yield f"loss: {loss.item():.6g}"
    yield _line("gradient", first_not_finite({n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    model.zero_grad()


def _first_module(model: nn.Module, micro_batch: Tensors) -> str | None:
    """The first module, in the order of running, whose output is not finite; None where the embeddings are."""
    seen: list[str] = []
    hooks = []
    for name, module in model.named_modules():

        def look(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
            if isinstance(output, torch.Tensor) and not bool(output.isfinite().all()):
                seen.append(name)

        hooks.append(module.register_forward_hook(look))
    with torch.no_grad():
        embeddings = model(**micro_batch).embeddings
    for hook in hooks:
        hook.remove()
    if bool(embeddings.isfinite().all()):
        return None
    return seen[0] if seen else "embeddings"


def _micro_batches(tensors: Tensors, prefix: str) -> list[Tensors]:
    found: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            place, _, field = name.removeprefix(prefix).partition(".")
            found.setdefault(int(place), {})[field] = tensor
    return [found[place] for place in sorted(found)]


def _fields(tensors: Tensors, prefix: str) -> Tensors:
    """What belongs to the batch as a whole, and `size`, its distinct samples."""
    size = sum(len(part["input_ids"]) for part in _micro_batches(tensors, f"{prefix}micro_batches."))
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {**{name: tensor for name, tensor in found.items() if "." not in name}, "size": torch.tensor(size)}


def _joined(ranks: list[Tensors]) -> Tensors:
    """The batches of all ranks as one: indices count on, absent negatives are filled up."""
    joined: Tensors = {}
    starts = torch.tensor([0, *[int(rank["size"]) for rank in ranks]]).cumsum(0)
    for name in sorted({name for rank in ranks for name in rank} - {"size"}):
        fill = -1 if name == "negative_index" else 0
        like = next(rank[name] for rank in ranks if name in rank)
        columns = []
        for rank, start in zip(ranks, starts, strict=False):
            values = rank.get(name, like.new_empty((len(rank["query_index"]), 0)))
            columns.append(torch.where(values >= 0, values + start, values) if name.endswith("_index") else values)
        if like.ndim == 2:
            width = max(values.shape[1] for values in columns)
            columns = [nn.functional.pad(v, (0, width - v.shape[1]), value=fill) for v in columns]
        joined[name] = torch.cat(columns)
    return joined


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("rank-"))


def _line(what: str, wrong: str | None) -> str:
    return f"{what}: {'finite' if wrong is None else f'not finite, first: {wrong}'}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with user_errors():
        for line in reproduce(sys.argv[1]):
            sys.stdout.write(f"{line}\n")
