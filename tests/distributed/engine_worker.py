"""Whole training runs, one after another, on one process or on several with accelerate's FSDP2 or DeepSpeed.

    accelerate launch --config_file … tests/distributed/engine_worker.py RUNS.json

RUNS.json is a list of argument lists of `llave_hf.train`. One launch serves many runs, since most of its time goes
into imports. What a user runs over GPUs runs here over CPU processes: accelerate makes FSDP of processes with an
accelerator only (`AcceleratorState.__init__`) and passes over it in silence on the CPU. Told that these have one, it
shards over gloo as it would over NCCL; nothing else is changed. DeepSpeed needs `--use_cpu false --ddp_backend gloo`
and DS_ACCELERATOR=cpu, and nothing from here.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))

from llave_hf.errors import UserError, leave_ranks
from llave_hf.runtime.quick_imports import quick_imports

with quick_imports():  # every run collects garbage twice, and would look through all of it
    from llave_hf.training.run_log import shorten_log

    shorten_log()  # before the next imports, as llave_hf.train does
    import accelerate.accelerator
    import pytest
    from accelerate import PartialState
    from accelerate.utils import DistributedType
    from helpers import draw_nothing

    from llave_hf.training.recipe.recipe import load_recipe
    from llave_hf.training.run import train

_start, _shard = PartialState.__init__, accelerate.accelerator.fsdp2_prepare_model


def _as_if_accelerated(self: PartialState, *args: Any, **kwargs: Any) -> None:
    _start(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def _telling(accelerator: Any, model: Any) -> Any:
    sharded = _shard(accelerator, model)
    local = sum(parameter.to_local().numel() for parameter in sharded.parameters())
    whole = sum(parameter.numel() for parameter in sharded.parameters())
    sys.stdout.write(f"rank {accelerator.process_index} holds {local} of {whole} numbers\n")
    return sharded


def main() -> None:
    runs = json.loads(Path(sys.argv[1]).read_text())
    leave = PartialState.destroy_process_group
    PartialState.destroy_process_group = lambda self, group=None: None  # the next run goes on with it
    for number, arguments in enumerate(runs):
        if number == len(runs) - 1:
            PartialState.destroy_process_group = leave
        try:
            trainer = train(load_recipe(arguments[0], arguments[1:]))
            sys.stdout.write(f"run {number}: {trainer.accelerator.distributed_type}\n")
        except UserError as error:  # all ranks stop at the same place, and the next run begins
            sys.stdout.write(f"run {number} stopped: {error}\n")
        except BaseException:  # told here, because the launcher ends both ranks at once
            sys.stderr.write(f"run {number} of rank {os.environ.get('RANK', 0)} failed:\n{traceback.format_exc()}")
            raise
        sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled first, which takes minutes
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        PartialState.__init__ = _as_if_accelerated
        accelerate.accelerator.fsdp2_prepare_model = _telling
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        main()
    sys.stdout.write(f"done at {time.time()}\n")
    leave_ranks()
