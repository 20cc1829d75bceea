"""`llave push`: a model folder to the Hub."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "push", run, "publish a model folder on the Hub")
    parser.add_argument("model", metavar="MODEL", help="a model folder with its card and fingerprint")
    parser.add_argument("repository", metavar="OWNER/NAME", help="made where it is missing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="made where it is missing")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument("--overwrite", action="store_true", help="also where something else is; says first what goes")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="recomputes the fingerprint (default: cpu)")
    parser.add_argument("--dry_run", action="store_true", help="check and list what would be sent; no network")


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.hub.push.push import PushOptions, push

    options = {"revision": arguments.revision, "overwrite": arguments.overwrite, "device": arguments.device}
    if arguments.private:
        options["private"] = True
    if arguments.message:
        options["message"] = arguments.message
    push(arguments.model, arguments.repository, PushOptions(**options), dry_run=arguments.dry_run)
