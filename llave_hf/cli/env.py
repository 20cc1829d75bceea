"""`llave env`: what a bug report needs to know of this machine."""

from __future__ import annotations

import argparse

from .command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "env", run, "print versions, processor, devices and engines for a bug report")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> None:
    import json

    from llave_hf.runtime.environment import as_lines, environment

    found = environment()
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(as_lines(found)))
