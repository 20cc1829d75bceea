"""One rank of Muon's distributed test, started by forked_ranks.py. Fails where weights differ from one process's."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist  # noqa: TID251  # starts the group that is under test
from torch import nn

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]

from llave_hf.training.tuning import muon  # noqa: E402

SHAPES = ((6, 6), (4, 9), (9, 4), (16, 5), (3, 3))
WITHOUT_GRADIENT = {1: 2, 3: 0}  # in this step, this matrix


def train(steps: int = 5) -> tuple[list[torch.Tensor], list[int]]:
    """The weights after some steps, and how often this rank orthogonalised."""
    generator = torch.Generator().manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    groups = [{"params": matrices[:3]}, {"params": matrices[3:], "lr": 0.02}]
    optimizer = muon.Muon(groups, lr=0.1, weight_decay=0.2)
    original, calls = muon.orthogonalise, []

    def counted(update: torch.Tensor, *args: object, **settings: object) -> torch.Tensor:
        calls.append(update.numel())
        return original(update, *args, **settings)  # type: ignore[arg-type]

    muon.orthogonalise = counted  # type: ignore[assignment]
    for step in range(steps):
        for index, matrix in enumerate(matrices):
            gradient = torch.randn(SHAPES[index], generator=generator)
            matrix.grad = None if WITHOUT_GRADIENT.get(step) == index else gradient
        optimizer.step()
    muon.orthogonalise = original
    states = [optimizer.state[matrix]["momentum_buffer"] for matrix in matrices]
    return [*(matrix.detach() for matrix in matrices), *states], calls


def main() -> None:
    alone, all_calls = train()
    dist.init_process_group("gloo")
    for at_once in (muon._AT_ONCE, 60, 1):  # one gather of all, several, and one for each matrix
        muon._AT_ONCE = at_once
        together, calls = train()
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one, other), (at_once, (one - other).abs().max())
        counts: list[list[int]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(counts, calls)
        assert sorted(chain.from_iterable(counts)) == sorted(all_calls), "each matrix on one rank"
        if at_once > 1:
            assert max(map(len, counts)) < len(all_calls), counts
    if dist.get_rank() == 0:
        sys.stdout.write(f"world {dist.get_world_size()}: {len(all_calls)} products\n")
    dist.destroy_process_group()
