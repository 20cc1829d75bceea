"""Prints the equality certificate: W ranks have the loss, gradients and weights of one process on the whole batch.

    python tests/certificate.py [--ranks 1 2 4]

Real processes over gloo (`tests/distributed/step_worker.py`), a model of some ten thousand parameters, rows of texts,
pictures and videos dealt alike and unlike to the ranks. An entry is the largest relative error over those mixes, of
the loss and of every parameter's gradient. Ends with an error at the first that is over 1e-10 (float64) or 1e-5
(float32).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).absolute().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "training")]


def measure(world: int) -> dict[str, dict[str, float]]:
    """The errors of each case on `world` ranks."""
    from step_helpers import write_media

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    with tempfile.TemporaryDirectory() as folder:
        root = write_media(Path(folder) / "root")
        worker = TESTS / "distributed" / "step_worker.py"
        done = subprocess.run(
            [*command, str(worker), str(root), "certificate"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"{world} ranks differ from one process:\n{done.stderr[-3000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("certificate "))
    return json.loads(line.removeprefix("certificate "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    ranks = parser.parse_args().ranks
    tables = {world: measure(world) for world in ranks}
    columns = [(world, kind) for world in ranks for kind in ("float64", "float32")]
    print("| | " + " | ".join(f"W = {world}, {kind}" for world, kind in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in max(tables.values(), key=len):
        cells = [tables[world].get(name, {}).get(kind) for world, kind in columns]
        print(f"| {name} | " + " | ".join("-" if cell is None else f"{cell:.0e}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
