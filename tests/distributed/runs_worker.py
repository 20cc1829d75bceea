"""Trainings one after another in one launch: accelerate launch runs_worker.py RUNS.json

RUNS.json is a list of argument lists of `llave_hf.train`. Most of a short training's time goes into its start.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llave_hf.errors import leave_ranks
from llave_hf.runtime.quick_imports import quick_imports

with quick_imports():  # every run collects garbage, and would look through all of it
    from accelerate import PartialState

    from llave_hf.training.recipe.recipe import load_recipe
    from llave_hf.training.run import train


def main() -> None:
    leave = PartialState.destroy_process_group
    PartialState.destroy_process_group = lambda self, group=None: None  # the next run goes on with it
    runs = json.loads(Path(sys.argv[1]).read_text())
    for number, arguments in enumerate(runs):
        if number == len(runs) - 1:
            PartialState.destroy_process_group = leave
        train(load_recipe(arguments[0], arguments[1:]))


if __name__ == "__main__":
    main()
    leave_ranks()
