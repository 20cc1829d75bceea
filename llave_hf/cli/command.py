"""How a command is added to `llave`, how each begins, and the options that several of them have."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from typing import TypeAlias

from llave_hf.runtime.library_lines import leave_out_lines

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


DTYPES = ("float32", "bfloat16", "float16")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """What a command that encodes opens its model in."""
    default = "as the weights are kept, but float32 on a CPU that does not multiply that type by itself"
    parser.add_argument("--dtype", choices=DTYPES, help=f"what the model computes in (default: {default})")


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    """A sub-parser whose `command` is the function that runs it."""
    parser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    add_debug(parser)
    parser.set_defaults(command=run)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """The option that [`begin`] reads."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")


def begin(arguments: argparse.Namespace, level: int = logging.INFO) -> None:
    """What a command line does first: shows its own lines from `level` on, and `--debug` keeps tracebacks."""
    leave_out_lines()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("llave_hf").setLevel(level)  # libraries name every request and every file they open
    if arguments.debug:
        os.environ["LLAVE_DEBUG"] = "1"
