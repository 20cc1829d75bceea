"""One rank of the training step's distributed tests: forked_ranks.py WORLDS step_worker.py ROOT WORLD:WHAT ...

Does what is for as many ranks as there are, and says how far apart it was, or `differs` and the first difference. The
reference is always one process with the whole batch and one graph.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist  # noqa: TID251  # starts the group that is under test
from torch.distributed.device_mesh import init_device_mesh  # noqa: TID251
from torch.distributed.fsdp import fully_shard  # noqa: TID251
from torch.distributed.tensor import DTensor  # noqa: TID251
from torch.nn.parallel import DistributedDataParallel

TESTS = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "training"), str(TESTS / "distributed")]

from mutations import MUTATIONS, PLANTED  # noqa: E402
from step_helpers import furthest, give_teacher, gradients_of, make_pairs, make_trainer, move_average, run_steps  # noqa: E402

from llave_hf import distributed  # noqa: E402
from llave_hf.data.samples import Pair  # noqa: E402
from llave_hf.training.trainer import LlaveTrainer  # noqa: E402

TOLERANCE = {True: 1e-10, False: 1e-5}
LOSS = (
    "directions",
    "use_negatives",
    "hardness_mode",
    "freeze",
    "false_negative_margin",
    "count_duplicates_once",
    "share_negatives",
    "matryoshka_dims",
    "max_hardness_weight",
    "hardness_source",
    "hardness_teacher",
    "teacher_margin",
    "learn_temperature",
    "hardness_warmup_steps",
    "hardness_reference",
    "hardness_strength",
    "focal_margin",
    "margin_strategy",
    "contrastive_weight",
    "distill_weight",
    "distill_source",
    "teacher_temperature",
)
CASES: dict[str, dict[str, Any]] = {
    "no caching": {},
    "one sample at a time": {"mini_batch_size": 1},
    "more graphs kept": {"mini_batch_size": 2, "graph_memory_gb": 0.0015},
    "a budget of tokens": {"mini_batch_num_tokens": 120},
    "a kind at a time": {"gradient_caching": True},
    "one direction": {"mini_batch_size": 2, "directions": ["query_to_doc"]},
    "negatives": {"mini_batch_num_tokens": 150, "use_negatives": True, "hardness_mode": "all_negatives"},
    "false negatives left out": {
        "mini_batch_size": 2,
        "false_negative_margin": 0.0,
        "count_duplicates_once": True,
    },
    "shared negatives": {"mini_batch_num_tokens": 150, "use_negatives": True, "share_negatives": True},
    "capped, Matryoshka": {"mini_batch_size": 2, "max_hardness_weight": 12.0, "matryoshka_dims": [8, 16]},
    "labels, learned temperature": {"mini_batch_size": 2, "learn_temperature": True},
    "moving average": {"mini_batch_num_tokens": 150, "hardness_source": "ema"},
    "teacher": {
        "mini_batch_size": 2,
        "use_negatives": True,
        "hardness_mode": "all_negatives",
        "hardness_source": "teacher",
        "hardness_teacher": "a model",
        "teacher_margin": 0.4,
    },
    "column, shared negatives": {
        "mini_batch_size": 2,
        "use_negatives": True,
        "share_negatives": True,
        "hardness_mode": "all_negatives",
        "hardness_source": "column",
    },
    "relative to the positive, capped": {
        "mini_batch_size": 2,
        "use_negatives": True,
        "hardness_source": "teacher",
        "hardness_teacher": "a model",
        "hardness_reference": "positive",
        "max_hardness_weight": 2.0,
    },
    "Focal-InfoNCE": {
        "mini_batch_size": 2,
        "use_negatives": True,
        "hardness_strength": 0.0,
        "focal_margin": 0.3,
        "learn_temperature": True,
    },
    "relative margin": {"mini_batch_size": 2, "false_negative_margin": 0.02, "margin_strategy": "relative"},
    "graded labels": {"mini_batch_size": 2, "use_negatives": True, "distill_weight": 0.5},
    "graded labels, shared negatives": {
        "mini_batch_num_tokens": 150,
        "use_negatives": True,
        "share_negatives": True,
        "distill_weight": 0.5,
    },
    "graded labels alone, by a teacher": {
        "mini_batch_size": 2,
        "use_negatives": True,
        "contrastive_weight": 0.0,
        "distill_weight": 1.0,
        "distill_source": "teacher",
        "hardness_teacher": "a model",
        "teacher_temperature": 0.05,  # far from the student: near it the gradient is mostly float32's rounding
    },
    "checkpointed": {"mini_batch_size": 2, "checkpointed": True},
    "frozen tower": {"mini_batch_size": 2, "freeze": ["vision_tower"]},
    "frozen language model": {"mini_batch_size": 2, "freeze": ["language_model"]},
}
# Of rank 0 and of the others: alike, pictures on one side only, and either way round.
MIXES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "alike": (("mixed",), ("mixed",)),
    "texts on rank 0": (("text",), ("mixed", "video")),
    "texts on the others": (("image", "text"), ("text",)),
}
PAIRS = 5  # of a rank


def with_negatives(pair: Pair, most: int) -> Pair:
    """The pair with at most so many of its negatives."""
    return replace(
        pair,
        negatives=pair.negatives[:most],
        negative_hardness=(pair.negative_hardness or ())[:most],
        negative_scores=(pair.negative_scores or ())[:most],
    )


def rows_of(root: Path, mix: str, world: int, step: int, *, negatives: bool = False) -> list[list[Pair]]:
    """Each rank's pairs, with labels and hardness. (Among their negatives are pictures.)"""
    first, others = MIXES[mix]
    made: list[list[Pair]] = []
    for rank in range(world):
        kinds = first if rank == 0 else others
        rows = make_pairs(root, PAIRS * (step * world + rank + 1), kinds=kinds, negatives=negatives, judged=True)
        most = 2 if rank == 0 else 1 if mix == "alike" else 0  # negatives of a row: ranks differ
        made.append([with_negatives(pair, most) for pair in rows[-PAIRS:]])
    return made


def trainer_for(root: Path, pairs: Sequence[Pair], **options: Any) -> LlaveTrainer:
    """A trainer whose teacher knows these pairs, and whose moving average is not where the model is."""
    trainer = make_trainer(root, **options)
    if trainer.args.hardness_teacher is not None:
        give_teacher(trainer, pairs)
    if trainer.objective.average is not None:
        move_average(trainer)
    return trainer


class DiffersError(AssertionError):
    """Ranks are not one process. All ranks raise it at the same place, and go on together with what comes next."""


def check(worst: float, limit: float, *about: object) -> float:
    """The largest error of all ranks.

    Raises:
        DiffersError: It is over the limit.
    """
    largest = torch.tensor(worst, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    if not largest < limit:
        raise DiffersError((*about, largest.item()))
    return largest.item()


Comparison = tuple[str, str, int, bool]  # a case, a mix, accumulation steps, whether in float64
Reference = tuple[list[float], dict[str, torch.Tensor]]
references: dict[tuple[str, str, int, bool], Reference] = {}


def plain_options(name: str) -> dict[str, Any]:
    """What of a case is of the loss: the same in one graph."""
    return {key: CASES[name][key] for key in LOSS if key in CASES[name]}


def rows_of_steps(root: Path, name: str, mix: str, accumulated: int) -> list[list[list[Pair]]]:
    """Each step's batches, by rank."""
    negatives = CASES[name].get("use_negatives", False)
    return [rows_of(root, mix, distributed.world_size(), step, negatives=negatives) for step in range(accumulated)]


def reference(root: Path, name: str, mix: str, accumulated: int, double: bool) -> Reference:
    """Losses, and gradients of the mean over accumulation steps, of one process; once for cases that share it."""
    options = plain_options(name)
    key = (repr(options), mix, accumulated, double)
    if key not in references:
        steps = rows_of_steps(root, name, mix, accumulated)
        everything = [pair for step in steps for rows in step for pair in rows]
        whole = trainer_for(root, everything, double=double, gather_across_devices=False, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "is_initialized", lambda: False)  # the other ranks are at references of theirs
            references[key] = run_steps(whole, [[pair for rows in step for pair in rows] for step in steps])
    return references[key]


def share_references(root: Path, comparisons: Iterable[Comparison]) -> None:
    """Works out each reference on one of the ranks."""
    first = {(repr(plain_options(name)), *rest): (name, *rest) for name, *rest in comparisons}
    for number, comparison in enumerate(first.values()):
        if number % distributed.world_size() == distributed.rank():
            reference(root, *comparison)
    for found in distributed.all_gather_object(references):
        references.update(found)


def compare_gradients(
    root: Path, name: str, mix: str, accumulated: int, double: bool, mutation: str | None = None
) -> float:
    """The largest relative error of the loss and of the gradients; a mutation is planted after the reference."""
    rank, world = distributed.rank(), distributed.world_size()
    losses, expected = reference(root, name, mix, accumulated, double)
    steps = rows_of_steps(root, name, mix, accumulated)
    everything = [pair for step in steps for rows in step for pair in rows]
    with pytest.MonkeyPatch.context() as patch:
        if mutation is not None:
            MUTATIONS[mutation](patch)
        trainer = trainer_for(root, everything, double=double, **CASES[name])
        assert trainer.args.world_size == world
        model = DistributedDataParallel(trainer.model, find_unused_parameters=True)
        own, found = run_steps(trainer, [step[rank] for step in steps], model=model)
    assert found.keys() == expected.keys()
    means = distributed.all_reduce_sum(torch.tensor(own, dtype=torch.float64)) / world
    wanted = torch.tensor(losses, dtype=torch.float64)
    apart = max(furthest(found, expected), float(((means - wanted) / wanted).abs().max()))
    return check(apart, TOLERANCE[double], name, mix, accumulated, double)


def compare_weights(root: Path, double: bool, steps: int = 5) -> float:
    """After several steps of an optimizer, with micro-batches that differ from rank to rank."""
    rank, world = distributed.rank(), distributed.world_size()
    alone = make_trainer(root, double=double, gather_across_devices=False)
    together = make_trainer(root, double=double, mini_batch_num_tokens=100, graph_memory_gb=0.0015)
    model = DistributedDataParallel(together.model, find_unused_parameters=True)
    start = {name: tensor.clone() for name, tensor in alone.model.state_dict().items()}
    # Adam divides by the root of the second moment: a larger epsilon keeps it from making steps out of rounding.
    optimizers = [torch.optim.AdamW(trainer.model.parameters(), lr=1e-2, eps=1e-3) for trainer in (alone, together)]
    for step in range(steps):
        mix = list(MIXES)[step % len(MIXES)]
        batches = rows_of(root, mix, world, step)
        run_steps(alone, [[pair for rows in batches for pair in rows]])
        run_steps(together, [batches[rank]], model=model)
        for optimizer in optimizers:
            optimizer.step()
    expected, found = alone.model.state_dict(), together.model.state_dict()
    moved = max((expected[name] - start[name]).abs().max().item() for name in start)
    assert moved > 1e-2
    return check(furthest(found, expected), TOLERANCE[double], double)


def compare_kept_graphs(root: Path) -> float:
    """In bfloat16, whose copies of weights kept graphs share: gradients beside a step that keeps no more than one."""
    rank, world = distributed.rank(), distributed.world_size()
    worst = 0.0
    for mix in MIXES:
        rows = rows_of(root, mix, world, 0)[rank]
        found = []
        for gib in (0.0, 0.0015, 1.0):
            trainer = make_trainer(root, mini_batch_size=2, gradient_caching=True, graph_memory_gb=gib, bf16=True)
            model = trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)  # autocast, and no wrapper
            found.append(run_steps(trainer, [rows], model=DistributedDataParallel(model, find_unused_parameters=True)))
        (losses, expected), *kept = found
        for kept_losses, gradients in kept:
            assert kept_losses == losses and gradients.keys() == expected.keys()
            worst = max(worst, furthest(gradients, expected))
    return check(worst, TOLERANCE[False], "kept graphs")


def compare_sharded(root: Path, name: str, mix: str, accumulated: int) -> float:
    """torch's `fully_shard`, in float64: each rank runs as many micro-batches of each kind."""
    rank, world = distributed.rank(), distributed.world_size()
    _, expected = reference(root, name, mix, accumulated, True)
    trainer = make_trainer(root, double=True, **CASES[name])
    mesh = init_device_mesh("cpu", (world,))
    model = trainer.model
    for layer in (*model.backbone.language_model.layers, *model.backbone.vision_tower.encoder.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert isinstance(next(model.parameters()), DTensor)
    batches = [step[rank] for step in rows_of_steps(root, name, mix, accumulated)]
    trainer.current_gradient_accumulation_steps = len(batches)
    for batch in batches:
        trainer.training_step(model, trainer.data_collator(batch))
    found = {key: gradient.full_tensor() for key, gradient in gradients_of(model).items()}
    return check(furthest(found, expected), TOLERANCE[True], name, mix, accumulated)


def certify(root: Path) -> dict[str, dict[str, float]]:
    """The largest errors of each case over all mixes, and of the weights after several steps."""
    kinds = {"float64": True, "float32": False}
    mixes = MIXES if distributed.world_size() > 1 else ("alike",)  # alone, rank 0 would have no picture
    table = {
        name: {
            kind: max(compare_gradients(root, name, mix, 1, double) for mix in mixes) for kind, double in kinds.items()
        }
        for name in CASES
    }
    table["weights after 5 steps of AdamW"] = {kind: compare_weights(root, double) for kind, double in kinds.items()}
    if distributed.world_size() > 1:
        cases = ("one sample at a time", "a budget of tokens", "negatives", "frozen language model")
        worst = max(compare_sharded(root, name, mix, 1) for name in cases for mix in MIXES)
        table["fully_shard, caching"] = {"float64": worst}
    return table


def compare_all_gradients(root: Path) -> dict[str, float]:
    """In both precisions, over all cases and mixes; gradients are accumulated in float64."""
    comparisons: list[Comparison] = [
        (name, mix, accumulated, double)
        for double in (True, False)
        for name in CASES
        for mix in MIXES
        for accumulated in ((1, 2) if double else (1,))
    ]
    share_references(root, comparisons)
    worst = {"float64": 0.0, "float32": 0.0}
    for comparison in comparisons:
        kind = "float64" if comparison[-1] else "float32"
        worst[kind] = max(worst[kind], compare_gradients(root, *comparison))
    return worst


def do(root: Path, what: str) -> object:
    if what == "certificate":
        return json.dumps(certify(root))
    if what in MUTATIONS:
        return compare_gradients(root, PLANTED[what], "alike", 1, True, mutation=what)
    if what == "gradients":
        return compare_all_gradients(root)
    if what == "weights":
        return {"float64" if double else "float32": compare_weights(root, double) for double in (True, False)}
    if what == "autocast":
        return compare_kept_graphs(root)
    return max(
        compare_sharded(root, name, mix, accumulated)
        for name in ("one sample at a time", "a budget of tokens", "negatives", "frozen language model")
        for mix in MIXES
        for accumulated in (1, 2)
    )


def main() -> None:
    dist.init_process_group("gloo")
    for asked in sys.argv[2:]:
        world, _, what = asked.partition(":")
        if int(world) != dist.get_world_size():
            continue
        try:
            said = do(Path(sys.argv[1]), what)
        except DiffersError as difference:
            said = f"differs {difference}"
        if dist.get_rank() == 0:
            sys.stdout.write(f"world {world}, {what}: {said}\n")
            sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()
