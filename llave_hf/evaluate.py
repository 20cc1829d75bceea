"""Evaluates with several processes; the same results as one process gives.

    accelerate launch -m llave_hf.evaluate MODEL --benchmark mmeb --data DIR --output DIR [--cache DIR]

Takes the options of `llave evaluate`. Each process encodes a share of the inputs and ranks a share of the queries; the
first one writes the results.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from llave_hf.cli.evaluation.evaluate import add_options, run

from .errors import leave_ranks, user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: the options of `llave evaluate`."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m llave_hf.evaluate", description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    arguments = parser.parse_args(argv)
    if arguments.debug:
        os.environ["LLAVE_DEBUG"] = "1"
    from accelerate import PartialState  # no sooner: --help needs neither it nor PyTorch

    state = PartialState()
    logging.basicConfig(level=logging.INFO if state.is_main_process else logging.ERROR, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with user_errors():
        run(arguments)
    state.destroy_process_group()


if __name__ == "__main__":
    main()
    leave_ranks()
