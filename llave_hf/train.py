"""Trains from a recipe.

    accelerate launch -m llave_hf.train recipes/tiny.yaml
    accelerate launch -m llave_hf.train recipes/llave-0.5b.yaml --hardness_strength 5 --output_dir out
    accelerate launch -m llave_hf.train recipes/llave-0.5b.yaml --output_dir out --resume_from_checkpoint

Every key of the recipe can be overridden; a killed run goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from llave_hf.runtime.quick_imports import quick_imports

from .errors import leave_ranks, user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: a recipe, then `--key value` overrides."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    # For torch, before it is imported: DDP warns of each rank where the first step happens to use every parameter.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with user_errors():
        with quick_imports():
            from llave_hf.training.run_log import shorten_log

            shorten_log()  # before the next imports, which say such things
            from llave_hf.training.recipe.recipe import load_recipe
            from llave_hf.training.run import train

        train(load_recipe(arguments[0], arguments[1:]))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # worker processes are forked after its first use
    main()
    leave_ranks()
