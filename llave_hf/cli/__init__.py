"""The command `llave`; `llave_hf.cli.commands` has a file for each of its commands.

Errors in input, files and settings end with one line and exit code 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llave_hf.errors import user_errors
from llave_hf.runtime.version import __version__

from .command import begin
from .commands import COMMANDS


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line (`sys.argv` where None)."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not hasattr(arguments, "overrides"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = rest
    begin(arguments)
    with user_errors():
        arguments.command(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands; each sub-parser's `command` is the function that runs it."""
    parser = argparse.ArgumentParser(prog="llave", description="LLaVE multimodal embedding models.")
    parser.add_argument("--version", action="version", version=f"llave {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
