"""Processor time of `import llave_hf` and of `--help`, in fresh processes, in turns; medians.

    python tests/benchmarks/imports.py [--rounds N]

Beside them stands what they cost at least (Python itself) and what they do without (transformers and PyTorch).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from statistics import median

SIDES = {
    "python": ["-c", "pass"],
    "import llave_hf": ["-c", "import llave_hf"],
    "llave --help": ["-m", "llave_hf.cli", "--help"],
    "llave search --help": ["-m", "llave_hf.cli", "search", "--help"],
    "llave_hf.train --help": ["-m", "llave_hf.train", "--help"],
    "llave_hf.evaluate --help": ["-m", "llave_hf.evaluate", "--help"],
    "import transformers": ["-c", "import transformers"],
    "AutoModel": ["-c", "from transformers import AutoModel"],
    "AutoModel after llave_hf": ["-c", "import llave_hf; from transformers import AutoModel"],
}


def processor_seconds(arguments: list[str]) -> float:
    """User and system time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="processes a line (default: 5)")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, arguments in SIDES.items():
            seconds[name].append(processor_seconds(arguments))
    print(f"seconds of processor time, medians of {rounds}")
    for name, values in seconds.items():
        print(f"{name:<26}{median(values):6.2f}")


if __name__ == "__main__":
    main()
