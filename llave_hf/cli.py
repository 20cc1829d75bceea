"""The command `llave`: thin, one function a command.

A command is a function `(arguments) -> None` that imports what it needs itself (`llave --help` stays quick), and
a function `_add_…` that describes its options, called in `build_parser`. Errors in input, files and settings end with
one line and exit code 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence

from llave_hf import __version__
from llave_hf.errors import user_errors

Command = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line (`sys.argv` where None)."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if arguments.debug:
        os.environ["LLAVE_DEBUG"] = "1"
    with user_errors():
        arguments.command(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands; each sub-parser's `command` is the function that runs it."""
    parser = argparse.ArgumentParser(prog="llave", description="LLaVE multimodal embedding models.")
    parser.add_argument("--version", action="version", version=f"llave {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_evaluate(commands)
    _add_card(commands)
    return parser


def evaluate(arguments: argparse.Namespace) -> None:
    """`llave evaluate`: results.json, results.md, results.png in the output folder, and the tables on the screen."""
    from llave_hf.evaluation import evaluate_benchmark
    from llave_hf.evaluation.report import markdown_report

    results = evaluate_benchmark(
        arguments.model,
        arguments.benchmark,
        output_dir=arguments.output,
        data=arguments.data,
        batch_size=arguments.batch_size,
        subsets=arguments.subsets,
    )
    print(markdown_report(results.to_dict()))
    print(f"Written to {arguments.output}: results.json, results.md, results.png")


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "evaluate", evaluate, "score a model on a benchmark")
    parser.add_argument("model", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument(
        "--benchmark", required=True, metavar="FILE|NAME", help="a YAML file, or a bundled name (mmeb)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the results are written")
    parser.add_argument(
        "--data", metavar="DIR", help="the folder of the benchmark's rows and pictures, if not the file's own"
    )
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="inputs encoded at once (default: 32)")
    parser.add_argument("--subsets", nargs="+", metavar="NAME", help="evaluate only these subsets")


def card(arguments: argparse.Namespace) -> None:
    """`llave card`: README.md and its plots in the model's folder."""
    from llave_hf.hub.model_card import write_model_card

    print(f"Written: {write_model_card(arguments.model, force=arguments.force)}")


def _add_card(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "card", card, "write the card of a model folder")
    parser.add_argument("model", metavar="MODEL", help="a folder that training left")
    parser.add_argument("--force", action="store_true", help="overwrite a README.md that was not written by llave")


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    main()
