"""python -m llave_hf.data.scenes DIR: writes the built-in data set."""

from __future__ import annotations

import argparse
import sys

from llave_hf.errors import user_errors


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llave_hf.data.scenes", description="Write the built-in data set.")
    parser.add_argument("output_dir", metavar="DIR")
    parser.add_argument("--train_pairs", type=int, default=4000, metavar="N")
    parser.add_argument("--eval_queries", type=int, default=600, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    with user_errors():
        from .writer import write_scenes

        root = write_scenes(**vars(arguments))
        sys.stdout.write(
            f"Scenes: --train_data {root}/train --media_root {root} --eval_benchmark {root}/benchmark.yaml\n"
        )


if __name__ == "__main__":
    main()
