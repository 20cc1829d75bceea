"""How a command is added to `llave`, and the options that several of them have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

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
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    parser.set_defaults(command=run)
    return parser
