"""`llave doctor`: what a recipe would run into; exit code 1 if there is a problem."""

from __future__ import annotations

import argparse
import sys

from llave_hf.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    parser = add_command(commands, "doctor", run, "check a recipe before it costs money")
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, as for llave_hf.train")
    parser.add_argument("--fast", action="store_true", help="look at a sample of the rows and files")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="that will train (default: 1)")
    parser.add_argument("--tflops", type=float, metavar="X", help="dense teraflops a second of one device")
    parser.add_argument("--accelerate_config", metavar="FILE", help="what accelerate launch will get")
    parser.epilog = "Any other --key value overrides the recipe's, as for llave_hf.train."
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> None:
    from llave_hf.doctor import examine
    from llave_hf.runtime.places import check_file
    from llave_hf.sweep.checks import check_number

    check_file(arguments.recipe, "The recipe")
    if arguments.accelerate_config is not None:
        check_file(arguments.accelerate_config, "accelerate's configuration")
    problems = 0
    devices = check_number(arguments.devices, "--devices")
    options = {
        "fast": arguments.fast,
        "tflops": arguments.tflops,
        "devices": devices,
        "accelerate_config": arguments.accelerate_config,
    }
    for finding in examine(arguments.recipe, arguments.overrides, **options):
        print(finding, flush=True)
        problems += finding.level == "PROBLEM"
    if problems:
        print(f"{problems} problem(s): the run would fail or waste its time")
        sys.exit(1)
