"""Embeds a corpus with several processes, each of which takes up parts that no other has.

    accelerate launch -m llave_hf.embed SOURCE --model MODEL --output DIR
    srun --ntasks 16 python -m llave_hf.embed SOURCE --model MODEL --output DIR

Takes the options of `llave embed`. Every process ends when the whole corpus is embedded, by it or another.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llave_hf.cli.command import add_debug, begin
from llave_hf.cli.search.embed import add_options, run

from .errors import leave_ranks, user_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: the options of `llave embed`."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m llave_hf.embed", description=__doc__.split("\n")[0])
    add_options(parser)
    add_debug(parser)
    arguments = parser.parse_args(argv)
    begin(arguments)
    with user_errors():
        run(arguments)


if __name__ == "__main__":
    main()
    leave_ranks()
