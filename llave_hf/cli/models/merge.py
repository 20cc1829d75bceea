"""`llave merge`: an adapter and its base as one model folder, or several models as one."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import DTYPES, Commands, add_command
from llave_hf.errors import UserError

_TWO_MEANINGS = """\
One word, two things:
  llave merge ADAPTER OUT          the adapter's deltas are added to its base model: one whole model, same vectors
  llave merge A B [C ...] OUT      the weights of several models are mixed: a new model, other vectors ("soup")

A, B, ... are whole models or adapters, which count as their bases with the deltas added. They must have one
architecture, pooling, prompt, resolution and vocabulary, and have been trained from one start. Options come after OUT.
"""


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "merge", run, "merge a PEFT adapter into its base model, or several models into one"
    )
    parser.description = _TWO_MEANINGS
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("models", metavar="MODEL", nargs="+", help="a folder or Hub id: one adapter, or two or more")
    parser.add_argument("folder", metavar="OUT", help="the folder to write; must be new or empty")
    mixed = parser.add_argument_group("of several models")
    mixed.add_argument(
        "--method",
        choices=["linear", "slerp", "ties"],
        help="linear: the weighted mean (default). slerp: the arc between two, tensor by tensor. "
        "ties: what each changed of --base, trimmed, where the signs agree",
    )
    mixed.add_argument(
        "--weights", metavar="W", type=float, nargs="+", help="one a model, divided by their sum (default: equal)"
    )
    mixed.add_argument("--base", metavar="DIR|ID", help="ties: the start of all (default: the adapters' base)")
    mixed.add_argument("--density", type=float, metavar="D", help="ties: share of changes that is kept (default: 0.2)")
    mixed.add_argument("--scale", type=float, metavar="S", help="ties: times the merged change (default: 1)")
    mixed.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the models', the widest of them)")
    thorough = "all inputs of the fingerprint go through the model, not a few where it is large"
    parser.add_argument("--thorough", action="store_true", help=thorough)


def run(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in ("method", "weights", "base", "density", "scale", "dtype")}
    given = {name: value for name, value in options.items() if value is not None}
    if len(arguments.models) > 1:
        from llave_hf.checkpoints.soup.soup import merge_models

        print(merge_models(arguments.models, arguments.folder, thorough=arguments.thorough, **given))
        return
    if given:
        raise UserError(f"--{next(iter(given))} is for two or more models and then a new folder (A B OUT).")
    from llave_hf.checkpoints.adapters import merge_adapter

    print(merge_adapter(arguments.models[0], arguments.folder, thorough=arguments.thorough))
