"""`llave card`: README.md and its plots in the model's folder."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "card", run, "write the card of a model folder")
    parser.add_argument("model", metavar="MODEL", help="a folder that training left")
    parser.add_argument("--force", action="store_true", help="overwrite a README.md that was not written by llave")
    parser.add_argument("--license", metavar="ID", help="such as apache-2.0; kept when the card is written again")
    parser.add_argument("--language", nargs="+", metavar="CODE", help="such as en; kept likewise")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.hub.card.model_card import write_model_card

    chosen = {"license": arguments.license, "language": arguments.language}
    print(f"Written: {write_model_card(arguments.model, force=arguments.force, chosen=chosen)}")
