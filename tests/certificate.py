"""Prints the equality certificate: W ranks have the loss, gradients and weights of one process on the whole batch.

    python tests/certificate.py [--ranks 1 2 4] [--engines fsdp2 zero3 ...]

Real processes over gloo (`tests/distributed/step_worker.py`), a model of some ten thousand parameters, rows of texts,
pictures and videos dealt alike and unlike to the ranks. An entry is the largest relative error over those mixes, of
the loss and of every parameter's gradient. Ends with an error at the first that is over 1e-10 (float64) or 1e-5
(float32).

Behind them stand whole trainings under DDP, FSDP2 and DeepSpeed (`tests/distributed/engine_runs.py`), compared in the
same way with one process; DeepSpeed's where it is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

TESTS = Path(__file__).absolute().parent
sys.path[:0] = [str(TESTS.parent), *(str(TESTS / name) for name in ("", "training", "distributed", "evaluation"))]

from engine_runs import CASES, PLAN, RESUMED  # noqa: E402


def measure(world: int) -> dict[str, dict[str, float]]:
    """The errors of each case on `world` ranks."""
    from forked_ranks import run_ranks
    from step_helpers import write_media

    with tempfile.TemporaryDirectory() as folder:
        root = write_media(Path(folder) / "root")
        worker = TESTS / "distributed" / "step_worker.py"
        said = run_ranks([world], worker, str(root), f"{world}:certificate", timeout=None)
    result = next(line for line in said.splitlines() if line.startswith("world ")).partition(": ")[2]
    if result.startswith("differs"):
        sys.exit(f"{world} ranks differ from one process:\n{result}")
    return json.loads(result)


def measure_engines(engines: Sequence[str]) -> dict[str, dict[str, float]]:
    """The errors of each training of each engine; 0 of a resumed one, which must equal its unbroken one to the bit."""
    from engine_runs import errors_of, run_all, write_root

    tables: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = write_root(Path(folder) / "root")
        run_all(root, None)
        for engine in engines:
            run_all(root, engine)
            tables[engine] = {name: max(errors_of(root, engine, name).values()) for name in PLAN[engine]}
            for name, error in tables[engine].items():
                if error > (0 if name in RESUMED else 1e-5):
                    sys.exit(f"{engine} differs from one process in {name!r}: {error:.0e}")
    return tables


def print_engines(engines: Sequence[str]) -> None:
    """A row a training, a column an engine."""
    tables = measure_engines(engines)
    print("| | " + " | ".join(engines) + " |")
    print("|---|" + "---|" * len(engines))
    for name in [*CASES, *RESUMED]:
        if all(name not in table for table in tables.values()):
            continue
        cells = [tables[engine].get(name) for engine in engines]
        print(f"| {name} | " + " | ".join("-" if cell is None else f"{cell:.0e}" for cell in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4])
    installed = [name for name in PLAN if not name.startswith("zero") or find_spec("deepspeed") is not None]
    parser.add_argument("--engines", nargs="*", default=installed, choices=list(PLAN))
    arguments = parser.parse_args()
    if arguments.ranks:
        print_ranks(arguments.ranks)
    if arguments.engines:
        print()
        print_engines(arguments.engines)


def print_ranks(ranks: Sequence[int]) -> None:
    """A row a case of the step, columns of ranks and precisions."""
    tables = {world: measure(world) for world in ranks}
    columns = [(world, kind) for world in ranks for kind in ("float64", "float32")]
    print("| | " + " | ".join(f"W = {world}, {kind}" for world, kind in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in max(tables.values(), key=len):
        cells = [tables[world].get(name, {}).get(kind) for world, kind in columns]
        print(f"| {name} | " + " | ".join("-" if cell is None else f"{cell:.0e}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
