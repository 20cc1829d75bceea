"""`python -m llave_hf.train`, to which something happens: surviving_worker.py WHAT STEP RECIPE [--key value …].

At the beginning of the step: `kill` rank 1 with SIGKILL, `terminate` it with SIGTERM, `kill-all` ranks and their
launcher, or put a `nan` into the weights of rank 1. `nothing` happens where nothing is asked for.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from llave_hf.runtime.quick_imports import quick_imports
from llave_hf.train import main

with quick_imports():
    import transformers.trainer
    from transformers import TrainerCallback


class Misfortune(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if WHAT == "nothing" or state.global_step + 1 != STEP:
            return
        if WHAT == "kill-all":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        if args.process_index != 1:
            return
        if WHAT == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if WHAT == "nan":
            next(p for name, p in model.named_parameters() if name.endswith("embed_tokens.weight")).data[:, 0] = float(
                "nan"
            )
            return
        sys.stderr.write("killed here\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    WHAT, STEP = sys.argv[1], int(sys.argv[2])
    transformers.trainer.DEFAULT_CALLBACKS.append(Misfortune)
    main(sys.argv[3:])
