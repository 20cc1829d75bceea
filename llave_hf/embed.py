"""Embeds a corpus with several processes, each of which takes up parts that no other has.

    accelerate launch -m llave_hf.embed SOURCE --model MODEL --output DIR
    srun --ntasks 16 python -m llave_hf.embed SOURCE --model MODEL --output DIR

Takes the options of `llave embed`. Every process ends when the whole corpus is embedded, by it or another.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence

from llave_hf.cli.search.embed import add_options, run

from .errors import leave_ranks, user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: the options of `llave embed`."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m llave_hf.embed", description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    arguments = parser.parse_args(argv)
    if arguments.debug:
        os.environ["LLAVE_DEBUG"] = "1"
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with user_errors():
        run(arguments)


if __name__ == "__main__":
    main()
    leave_ranks()
