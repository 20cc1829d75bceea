"""`llave export`: stock weights, processor and modules.json, that open without llave_hf."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "export", run, "write a folder that opens without llave_hf")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")
    parser.add_argument("--format", required=True, choices=["stock", "llava_onevision"], help="transformers' own model class")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.checkpoints.export import export as export_folder

    print(export_folder(arguments.model, arguments.folder, arguments.format))
