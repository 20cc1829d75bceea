"""What DeepSpeed's third stage makes of parameters that a backward does not reach; nothing of llave_hf.

Prints, as JSON, the gradient of a branch `b` in two updates, which should be 1 where `b` is reached: by the first
backward of each (`whole`), by the second (`later`), or not at all in the second update (`never`; 0 is right).
"""

from __future__ import annotations

import json
import sys

import deepspeed
import torch
from deepspeed import ops
from deepspeed.utils import safe_get_full_grad
from torch import nn

ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled first


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def forward(self, branch: str) -> torch.Tensor:
        return getattr(self, branch)(torch.ones(1, 1)).sum()


def gradients(*updates: str) -> list[float]:
    """Of `b`, at the end of each update; an update is a word, a letter for each backward."""
    model = Branches()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    found = []
    for branches in updates:
        for number, branch in enumerate(branches):
            engine.set_gradient_accumulation_boundary(number == len(branches) - 1)
            engine.backward(engine(branch))
        found.append(safe_get_full_grad(engine.module.b.weight).item())
        engine.step()
    return found


if __name__ == "__main__":
    told = {"whole": gradients("ba", "ba"), "later": gradients("ab", "ab"), "never": gradients("b", "a")}
    sys.stdout.write(f"found {json.dumps(told)}\n")
