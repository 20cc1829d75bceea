"""Evaluates with several processes; the same results as one process gives.

    accelerate launch -m llave_hf.evaluate MODEL --benchmark mmeb --data DIR --output DIR [--cache DIR]

Takes the options of `llave evaluate`. Each process encodes a share of the inputs and ranks a share of the queries; the
first one writes the results.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from llave_hf.cli.command import add_debug, begin
from llave_hf.cli.evaluation.evaluate import add_options, run

from .errors import leave_ranks, user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: the options of `llave evaluate`."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m llave_hf.evaluate", description=__doc__.split("\n")[0])
    add_options(parser)
    add_debug(parser)
    arguments = parser.parse_args(argv)
    from accelerate import PartialState  # no sooner: --help needs neither it nor PyTorch

    state = PartialState()
    begin(arguments, logging.INFO if state.is_main_process else logging.ERROR)
    with user_errors():
        run(arguments)
    state.destroy_process_group()


if __name__ == "__main__":
    main()
    leave_ranks()
