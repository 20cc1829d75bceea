"""`llave sweep`: trains the variants of a recipe with several seeds and compares them; exit code 1 if a run failed."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial

from llave_hf.cli.command import Commands, add_command
from llave_hf.errors import TERMINATED


def add(commands: Commands) -> None:
    parser = add_command(commands, "sweep", run, "train variants of a recipe with several seeds and compare them")
    parser.add_argument("sweep", metavar="SWEEP", help="a YAML file, see recipes/ablation.yaml")
    parser.add_argument("--output", required=True, metavar="DIR", help="where runs and the report are written")
    parser.add_argument(
        "--budget_pairs", type=int, metavar="N", help="training pairs of each run (default: the file's)"
    )
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--num_processes", type=int, metavar="N", help="processes a run (default: 1)")
    parser.add_argument("--accelerate_config", metavar="FILE", help="of accelerate launch, for several processes")
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="JSON lines, one a finished run, to keep or commit: what stands there is not run again, on any machine",
    )
    parser.add_argument("--dry_run", action="store_true", help="list the runs and stop")
    parser.add_argument("--report_only", action="store_true", help="write the report of the runs that are finished")
    parser.epilog = "Any other --key value overrides the base recipe's, as for llave_hf.train."
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.sweep import load_sweep, record_into, recorded_options, run_all, write_report
    from llave_hf.sweep.checks import check_number
    from llave_hf.sweep.launching import Launch

    launch = Launch.of(arguments.num_processes, arguments.accelerate_config)
    parallel = check_number(arguments.parallel, "--parallel")
    options = {
        "overrides": arguments.overrides,
        "budget_pairs": arguments.budget_pairs,
        "processes": launch.processes,
        "results": arguments.results,
    }
    if arguments.report_only and not arguments.overrides:
        options |= recorded_options(arguments.output)
    sweep = load_sweep(arguments.sweep, arguments.output, **options)
    print(sweep, flush=True)
    if arguments.dry_run:
        for one in sweep.runs:
            state = "finished" if one.finished else "stopped" if one.stopped else "to do"
            print(f"  {state:<9} {one}: {one.steps:,} steps, {one.folder}")
        return
    failed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # as Ctrl-C: ends the runs that are under way
    if not arguments.report_only:
        write_report(sweep)  # says at once what the folder is of, for a later --report_only
        enter = record_into(sweep)
        say = partial(print, flush=True)
        failed = run_all(sweep.runs, launch, parallel=parallel, say=say, finished=enter)
    print(f"\n{write_report(sweep)}\nWritten to {sweep.output}: sweep.json, table.md and a plot for each group")
    if failed:
        print(f"{len(failed)} run(s) failed: {'; '.join(str(one) for one in failed)}")
        sys.exit(1)
