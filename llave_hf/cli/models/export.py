"""`llave export`: stock weights, processor and modules.json, that open without llave_hf."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "export", run, "write a folder that opens and is served without llave_hf")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")
    parser.add_argument(
        "--format",
        default="stock",
        choices=["stock", "llava_onevision"],
        help="stock: transformers' own class of the backbone (default); llava_onevision: the same, of that one alone",
    )
    parser.add_argument(
        "--image_tiling",
        choices=["anyres", "anyres_single"],
        help="export with this tiling, where stock code does not have the model's own; says what it costs",
    )


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.checkpoints.export import export as export_folder

    print(export_folder(arguments.model, arguments.folder, arguments.format, image_tiling=arguments.image_tiling))
