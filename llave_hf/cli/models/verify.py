"""`llave verify`: recomputes a fingerprint, or a published card's similarities, or asks a running server; exit code 1
if they differ."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from llave_hf.cli.command import Commands, add_command
from llave_hf.errors import UserError

_OF_SERVERS = ("served", "forms", "skip", "api_key_env", "tolerance", "timeout", "json")
_OF_FOLDERS = ("backend", "thorough", "published", "picture")


def add(commands: Commands) -> None:
    parser = add_command(commands, "verify", run, "check that a model gives the vectors of its fingerprint")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    backends = ("auto", "sentence-transformers", "llave-sentence-transformer")
    parser.add_argument("--backend", choices=backends, help="what opens the model (default: auto)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fingerprint's")
    thorough = "put all inputs through the model, not a few where it is large and on a CPU"
    parser.add_argument("--thorough", action="store_true", default=None, help=thorough)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where the model computes (default: cpu)")
    parser.add_argument(
        "--published", choices=("0.5B", "2B"), help="compare with the card of this published LLaVE instead"
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="figures/example.jpg of the published repository, for --published"
    )
    server = parser.add_argument_group(
        "a running server", "Compares its vectors with MODEL's, and says why they differ."
    )
    server.add_argument("--url", metavar="URL", help="its address, http://HOST:PORT")
    server.add_argument("--model", dest="served", metavar="NAME", help="its name for it (default: its only one)")
    server.add_argument("--forms", nargs="+", metavar="FORM", help="request forms to try (default: all)")
    server.add_argument("--skip", nargs="+", metavar="KIND", help="kinds of inputs to leave out")
    server.add_argument(
        "--api_key_env", metavar="NAME", help="the key's variable (default: LLAVE_API_KEY or OPENAI_API_KEY)"
    )
    server.add_argument(
        "--tolerance", type=float, metavar="X", help="how far below 1 a cosine may be (default: 1e-7 in float32, 5e-3)"
    )
    server.add_argument("--timeout", type=float, metavar="SECONDS", help="for one answer (default: 120)")
    server.add_argument("--json", metavar="FILE", help="write all of it as JSON too")


def run(arguments: argparse.Namespace) -> None:
    given = {name: getattr(arguments, name) for name in (*_OF_SERVERS, *_OF_FOLDERS)}
    chosen = {name: value for name, value in given.items() if value is not None}
    _refuse(arguments.url is None, chosen, _OF_SERVERS, "--{} needs --url, the address of a running server.")
    _refuse(arguments.url is not None, chosen, _OF_FOLDERS, "--{} has no meaning with --url; leave it out.")
    if arguments.url is not None:
        _verify_server(arguments, chosen)
    else:
        _verify_folder(arguments)


def _refuse(wrong: bool, chosen: dict[str, Any], names: tuple[str, ...], message: str) -> None:
    for name in names:
        if wrong and name in chosen:
            raise UserError(message.format("model" if name == "served" else name))


def _verify_server(arguments: argparse.Namespace, chosen: dict[str, Any]) -> None:
    from llave_hf.runtime.places import check_model_path, check_output_file
    from llave_hf.serving_check.check import check_server, chosen_forms, write_report
    from llave_hf.serving_check.client import TIMEOUT, Client, api_key
    from llave_hf.serving_check.offers import discover
    from llave_hf.serving_check.reference import open_reference

    check_model_path(arguments.model)
    if arguments.json is not None:
        check_output_file(arguments.json, "--json")
    chosen_forms(arguments.forms or (), arguments.skip or ())
    client = Client(arguments.url, api_key(arguments.api_key_env), arguments.timeout or TIMEOUT)
    offers = discover(client, arguments.served)  # before a model is opened that takes a minute
    reference = open_reference(arguments.model, arguments.dtype or "float32", arguments.device)
    options = {name: chosen[name] for name in ("forms", "skip", "tolerance") if name in chosen}
    report = check_server(reference, client, offers, **options)
    print("\n".join(report.lines))
    if arguments.json is not None:
        write_report(report, arguments.json)
        print(f"Written to {arguments.json}")
    if not report.agrees:
        sys.exit(1)


def _verify_folder(arguments: argparse.Namespace) -> None:
    from llave_hf.hub.fingerprint.reference_values import verify_published
    from llave_hf.hub.fingerprint.verify import verify as verify_fingerprint

    if arguments.published and not arguments.picture:
        raise UserError("--published needs --picture FILE, figures/example.jpg of the published repository.")
    backend = arguments.backend or "auto"
    if arguments.picture and backend != "auto":
        raise UserError("--picture compares what AutoModel gives; leave --backend out.")
    options = {"dtype": arguments.dtype, "device": arguments.device}
    if arguments.picture:
        options |= {"size": arguments.published, "dtype": arguments.dtype or "float32"}
        verdict = verify_published(arguments.model, arguments.picture, **options)
    else:
        thorough = bool(arguments.thorough)
        verdict = verify_fingerprint(arguments.model, backend=backend, thorough=thorough, **options)
    print("\n".join(verdict.lines))
    if verdict.difference is not None:
        sys.exit(1)
