"""`llave verify`: recomputes a fingerprint, or a published card's similarities; exit code 1 if they differ."""

from __future__ import annotations

import argparse
import sys

from llave_hf.cli.command import Commands, add_command
from llave_hf.errors import UserError


def add(commands: Commands) -> None:
    parser = add_command(commands, "verify", run, "check that a model gives the vectors of its fingerprint")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    backends = ("auto", "sentence-transformers", "llave-sentence-transformer")
    parser.add_argument("--backend", choices=backends, default="auto", help="what opens the model (default: auto)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fingerprint's")
    thorough = "put all inputs through the model, not a few where it is large and on a CPU"
    parser.add_argument("--thorough", action="store_true", help=thorough)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where the model computes (default: cpu)")
    parser.add_argument(
        "--published", choices=("0.5B", "2B"), help="compare with the card of this published LLaVE instead"
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="figures/example.jpg of the published repository, for --published"
    )


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.hub.fingerprint.reference_values import verify_published
    from llave_hf.hub.fingerprint.verify import verify as verify_fingerprint

    if arguments.published and not arguments.picture:
        raise UserError("--published needs --picture FILE, figures/example.jpg of the published repository.")
    if arguments.picture and arguments.backend != "auto":
        raise UserError("--picture compares what AutoModel gives; leave --backend out.")
    if arguments.picture:
        options = {"size": arguments.published, "dtype": arguments.dtype or "float32", "device": arguments.device}
        verdict = verify_published(arguments.model, arguments.picture, **options)
    else:
        options = {name: getattr(arguments, name) for name in ("backend", "dtype", "device", "thorough")}
        verdict = verify_fingerprint(arguments.model, **options)
    print("\n".join(verdict.lines))
    if verdict.difference is not None:
        sys.exit(1)
