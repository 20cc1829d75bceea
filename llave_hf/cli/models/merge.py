"""`llave merge`: a PEFT adapter and its base as one model folder."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "merge", run, "merge a PEFT adapter into its base model")
    parser.add_argument("adapter", metavar="ADAPTER", help="a folder or Hub id with adapter_config.json")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")
    thorough = "all inputs of the fingerprint go through the model, not a few where it is large"
    parser.add_argument("--thorough", action="store_true", help=thorough)


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.checkpoints.adapters import merge_adapter

    print(merge_adapter(arguments.adapter, arguments.folder, thorough=arguments.thorough))
