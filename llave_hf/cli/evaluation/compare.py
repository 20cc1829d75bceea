"""`llave compare`: which differences between two evaluations are real; compare.md and compare.json."""

from __future__ import annotations

import argparse

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "compare", run, "tell which differences between two evaluations are real")
    parser.add_argument("a", metavar="A", help="a folder that `llave evaluate --output` wrote")
    parser.add_argument("b", metavar="B", help="another, on the same benchmark; differences are B - A")
    parser.add_argument("--output", metavar="DIR", help="where compare.md and compare.json go (default: B)")


def run(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from llave_hf.evaluation.comparison import compare_results, markdown_comparison, write_comparison
    from llave_hf.runtime.places import check_output_folder

    if arguments.output:
        check_output_folder(arguments.output, "The output folder")
    comparison = compare_results(arguments.a, arguments.b)
    folder = Path(arguments.output or arguments.b)
    write_comparison(comparison, folder)
    print(markdown_comparison(comparison))
    print(f"Written to {folder}: compare.md, compare.json")
