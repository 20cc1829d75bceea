"""Prints the table of results/README.md: python recipes/results/table.py NAME=FOLDER [NAME=FOLDER ...]

Each folder is one that training left; its eval/results.json is read. Several folders under one NAME are averaged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    runs: dict[str, list[dict]] = {}
    for argument in sys.argv[1:]:
        name, _, folder = argument.partition("=")
        runs.setdefault(name, []).append(json.loads((Path(folder) / "eval" / "results.json").read_text()))
    first = next(iter(runs.values()))[0]
    rows = [
        (
            subset,
            100 * task["chance"],
            [[100 * run["tasks"][subset]["precision_at_1"] for run in of] for of in runs.values()],
        )
        for subset, task in first["tasks"].items()
    ]
    rows += [
        (f"**mean {name}**", None, [[100 * run["means"][name] for run in of] for of in runs.values()])
        for name in first["means"]
    ]
    lines = [
        "| subset | chance | " + " | ".join(runs) + " |",
        "|---|---:|" + "---:|" * len(runs),
    ]
    for label, chance, scores in rows:
        cells = [f"{sum(values) / len(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})" for values in scores]
        lines.append(f"| {label} | {'' if chance is None else f'{chance:.1f}'} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
