"""`llave evaluate`: results.json, results.md, results.png in the output folder, and the tables on the screen."""

from __future__ import annotations

import argparse

from .command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "evaluate", run, "score a model on a benchmark")
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


def run(arguments: argparse.Namespace) -> None:
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
