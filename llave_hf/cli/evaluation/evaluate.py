"""`llave evaluate`: results, tables, a plot and a page in the output folder, and the tables on the screen."""

from __future__ import annotations

import argparse
import shlex
import sys

from llave_hf.cli.command import Commands, add_command, add_dtype
from llave_hf.errors import UserError


def add(commands: Commands) -> None:
    parser = add_command(commands, "evaluate", run, "score a model on a benchmark")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, also those of `python -m llave_hf.evaluate`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder or Hub id")
    parser.add_argument(
        "--benchmark", required=True, metavar="FILE|NAME", help="a YAML file, or a bundled name (mmeb, mmeb-v2)"
    )
    parser.add_argument("--output", metavar="DIR", help="where the results are written")
    parser.add_argument(
        "--data", metavar="DIR", help="the folder of the benchmark's rows and pictures, if not the file's own"
    )
    add_encoding_options(parser)
    parser.add_argument("--subsets", nargs="+", metavar="NAME", help="evaluate only these subsets")
    misses = "queries of each subset that report.html shows what went wrong with (default: %(default)s)"
    parser.add_argument("--misses", type=int, default=20, metavar="N", help=misses)
    parser.add_argument("--no_pictures", action="store_true", help="keep pictures of the data out of report.html")
    parser.add_argument(
        "--self_test", action="store_true", help="no model: check that encoders that know nothing score chance"
    )


def add_encoding_options(parser: argparse.ArgumentParser) -> None:
    """The options of all commands that score what they encode."""
    batch_size = "inputs encoded at once (default: %(default)s)"
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help=batch_size)
    cache = "keep vectors here, by content and model: a stopped run goes on, later ones reuse them (default: no)"
    parser.add_argument("--cache", metavar="DIR", help=cache)
    add_dtype(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.self_test:
        _self_test(arguments)
        return
    for name, value in (("MODEL", arguments.model), ("--output DIR", arguments.output)):
        if value is None:
            raise UserError(f"{name} is missing: say what to evaluate and where to write (or give --self_test).")
    if arguments.misses < 0:
        raise UserError(f"--misses must not be negative, not {arguments.misses} (0: none are shown).")
    from llave_hf import distributed
    from llave_hf.evaluation import evaluate_benchmark
    from llave_hf.evaluation.report.markdown import markdown_report
    from llave_hf.evaluation.report.page import PageOptions

    results = evaluate_benchmark(
        arguments.model,
        arguments.benchmark,
        output_dir=arguments.output,
        data=arguments.data,
        batch_size=arguments.batch_size,
        subsets=arguments.subsets,
        cache=arguments.cache,
        dtype=arguments.dtype,
        page=PageOptions(arguments.misses, not arguments.no_pictures, _command(arguments)),
    )
    if distributed.rank() == 0:
        print(markdown_report(results.to_dict()))
        files = "report.html, results.json, results.md, results.png, per_query.safetensors"
        print(f"Written to {arguments.output}: {files}{', leaderboard.json' if results.leaderboard else ''}")


def _command(arguments: argparse.Namespace) -> str:
    """The command that gives these results again, with what is not a default."""
    defaults = argparse.ArgumentParser()
    add_options(defaults)
    words = ["llave", "evaluate", arguments.model, "--benchmark", arguments.benchmark, "--output", arguments.output]
    words += ["--data", arguments.data] if arguments.data else []
    words += ["--subsets", *arguments.subsets] if arguments.subsets else []
    for name in ("batch_size", "misses"):
        value = getattr(arguments, name)
        words += [f"--{name}", str(value)] if value != defaults.get_default(name) else []
    words += ["--dtype", arguments.dtype] if arguments.dtype else []
    words += ["--no_pictures"] if arguments.no_pictures else []
    return shlex.join(words)


def _self_test(arguments: argparse.Namespace) -> None:
    from llave_hf import distributed
    from llave_hf.evaluation.benchmark.collection import collect_inputs
    from llave_hf.evaluation.benchmark.loading import load_benchmark
    from llave_hf.evaluation.benchmark.rows import RowReader
    from llave_hf.evaluation.self_test import self_test, self_test_table

    benchmark = load_benchmark(arguments.benchmark, arguments.data).select(arguments.subsets)
    inputs, tasks = collect_inputs(benchmark, RowReader(benchmark))
    tests = self_test(tasks, len(inputs))
    failed = [test.task for test in tests if not test.passed]
    if distributed.rank() == 0:
        print(self_test_table(tests))
        verdict = f"FAILED on {', '.join(failed)}" if failed else "passed, the constant one exactly"
        print(f"Encoders that know nothing score chance, in %: {verdict}.")
    if failed:
        sys.exit(1)
