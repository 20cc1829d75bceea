"""One rank of the training step's distributed tests, started by torchrun. Exits non-zero with the first difference.

The reference is always one process with the whole batch and one graph.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from llave_hf.errors import leave_ranks  # noqa: E402
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
        "teacher_temperature": 0.2,
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


def whole_batches(trainer: LlaveTrainer, ranks: Sequence[Sequence[list[Pair]]]) -> dict[str, torch.Tensor]:
    """Gradients of the mean over accumulation steps; `ranks` holds each step's batches, by rank."""
    _, gradients = run_steps(trainer, [[pair for rows in step for pair in rows] for step in ranks])
    return gradients


def compare_gradients(
    root: Path, name: str, mix: str, accumulated: int, double: bool, mutation: str | None = None
) -> float:
    """The largest relative error of the loss and of the gradients; a mutation is planted after the reference."""
    rank, world = distributed.rank(), distributed.world_size()
    options = CASES[name]
    plain = {key: options[key] for key in LOSS if key in options}
    negatives = options.get("use_negatives", False)
    steps = [rows_of(root, mix, world, step, negatives=negatives) for step in range(accumulated)]
    everything = [pair for step in steps for rows in step for pair in rows]
    whole = trainer_for(root, everything, double=double, gather_across_devices=False, **plain)
    losses, expected = run_steps(whole, [[pair for rows in step for pair in rows] for step in steps])
    if mutation is not None:
        MUTATIONS[mutation]()
    trainer = trainer_for(root, everything, double=double, **options)
    assert trainer.args.world_size == world
    model = DistributedDataParallel(trainer.model, find_unused_parameters=True)
    own, found = run_steps(trainer, [step[rank] for step in steps], model=model)
    assert found.keys() == expected.keys()
    means = distributed.all_reduce_sum(torch.tensor(own, dtype=torch.float64)) / world
    wanted = torch.tensor(losses, dtype=torch.float64)
    apart = max(furthest(found, expected), float(((means - wanted) / wanted).abs().max()))
    assert apart < TOLERANCE[double], (name, mix, accumulated, double, apart)
    return apart


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
    apart = furthest(found, expected)
    assert apart < TOLERANCE[double], (double, apart)
    return apart


def compare_sharded(root: Path, name: str, mix: str, accumulated: int) -> float:
    """torch's `fully_shard`, in float64: each rank runs as many micro-batches of each kind."""
    rank, world = distributed.rank(), distributed.world_size()
    options = CASES[name]
    plain = {key: options[key] for key in LOSS if key in options}
    negatives = options.get("use_negatives", False)
    steps = [rows_of(root, mix, world, step, negatives=negatives) for step in range(accumulated)]
    expected = whole_batches(make_trainer(root, double=True, gather_across_devices=False, **plain), steps)
    trainer = make_trainer(root, double=True, **options)
    mesh = init_device_mesh("cpu", (world,))
    model = trainer.model
    for layer in (*model.backbone.language_model.layers, *model.backbone.vision_tower.encoder.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert isinstance(next(model.parameters()), DTensor)
    batches = [step[rank] for step in steps]
    trainer.current_gradient_accumulation_steps = len(batches)
    for batch in batches:
        trainer.training_step(model, trainer.data_collator(batch))
    found = {key: gradient.full_tensor() for key, gradient in gradients_of(model).items()}
    apart = furthest(found, expected)
    assert apart < TOLERANCE[True], (name, mix, accumulated, apart)
    return apart


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


def main() -> None:
    root, what = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    if what == "certificate":
        table = certify(root)
        if dist.get_rank() == 0:
            sys.stdout.write(f"certificate {json.dumps(table)}\n")
        dist.barrier()
        dist.destroy_process_group()
        return
    if what in MUTATIONS:
        compare_gradients(root, PLANTED[what], "alike", 1, True, mutation=what)
        return
    worst: dict[str, float] = {}
    if what == "gradients":
        for double in (True, False):
            worst["float64" if double else "float32"] = max(
                compare_gradients(root, name, mix, accumulated, double)
                for name in CASES
                for mix in MIXES
                for accumulated in ((1, 2) if double else (1,))
            )
    elif what == "weights":
        worst = {"float64" if double else "float32": compare_weights(root, double) for double in (True, False)}
    else:
        worst["sharded"] = max(
            compare_sharded(root, name, mix, accumulated)
            for name in ("one sample at a time", "a budget of tokens", "negatives", "frozen language model")
            for mix in MIXES
            for accumulated in (1, 2)
        )
    if dist.get_rank() == 0:
        sys.stdout.write(f"world {dist.get_world_size()}, {what}: {worst}\n")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave_ranks()
