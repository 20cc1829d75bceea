"""Runs everything that needs a GPU and prints one table.

    tests/gpu/check.sh [--quick] [--output table.md] [--only NAME ...]

Each section is a process of its own, so that one that fails or hangs is a row that says so, and the others still run.
The exit code is 1 where a row failed. `--device cpu --small` runs every line with tiny shapes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).absolute().parent
TESTS = HERE.parent
sys.path[:0] = [str(place) for place in (TESTS.parent, TESTS, TESTS / "training", TESTS / "benchmarks", HERE)]

from card import name_of, peak_tflops, versions  # noqa: E402
from rows import FAILED, Row, Setting  # noqa: E402

# Name, module, and seconds that it may take on a GPU.
SECTIONS = {
    "tests": ("device_tests", 180),
    "loss": ("compiled_loss", 90),
    "engines": ("engine_steps", 150),
    "sentence-transformers": ("beside_stock", 120),
    "models": ("model_steps", 200),
}
SMALL_LIMIT = 900
GRACE = 10  # seconds for a section to end when it is told to
LOG = 12_000  # characters of it that are shown where a row failed


def run_section(name: str, setting: Setting, folder: Path) -> list[Row]:
    """The rows of a section, one more where it did not come to its end."""
    module, limit = SECTIONS[name]
    rows, log = folder / f"{module}.jsonl", folder / f"{module}.log"
    command = [sys.executable, __file__, "--section", module, str(rows), json.dumps(asdict(setting))]
    limit = SMALL_LIMIT if setting.small else limit
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
            reason = f"exit code {code}: {last_line(log)}" if code else ""
        except subprocess.TimeoutExpired:
            reason = f"not finished after {limit} s; the last line: {last_line(log)}"
            end(process)
    found = [Row(**json.loads(line)) for line in rows.read_text().splitlines()] if rows.exists() else []
    if not found and not reason:
        reason = "no rows"
    if reason or any(row.verdict == FAILED for row in found):
        sys.stderr.write(log.read_text(errors="replace")[-LOG:])
    if reason:
        found.append(Row("the section itself", reason, "it ends", FAILED))
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """With what it started: launchers end their ranks when they are asked to."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "nothing was printed"


def table(found: dict[str, tuple[list[Row], float]], setting: Setting, command: str) -> Iterator[str]:
    """Lines of Markdown."""
    total = sum(seconds for _, seconds in found.values())
    peak = peak_tflops(setting.device, setting.peak_tflops)
    yield f"# {name_of(setting.device)}"
    yield ""
    yield f"{versions()}."
    yield ""
    yield f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {total:.0f} s: `{command}`"
    if setting.on_gpu:
        yield ""
        yield f"Peak in bfloat16: {f'{peak:g} Tflop/s' if peak else 'not known for this card; give --peak-tflops'}."
    yield ""
    yield "| section | what | found | wanted | verdict |"
    yield "|---|---|---|---|---|"
    for name, (rows, seconds) in found.items():
        for number, row in enumerate(rows):
            cells = [f"{name}, {seconds:.0f} s" if number == 0 else "", row.what, row.found, row.wanted, row.verdict]
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def write_rows(module: str, path: Path, setting: Setting) -> None:
    """The child process of [`run_section`]; a row is written as soon as it is there."""
    for row in importlib.import_module(module).rows(setting):
        with path.open("a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="leave out the larger model and what compiles long")
    parser.add_argument("--output", type=Path, help="a Markdown file that the table is written to")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--peak-tflops", type=float, help="dense, in bfloat16; default: by the card's name")
    parser.add_argument("--section", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.section:
        module, path, setting = arguments.section
        write_rows(module, Path(path), Setting(**json.loads(setting)))
        return 0
    if arguments.device == "cpu" and not arguments.small:
        parser.error("real shapes take days on a CPU; add --small")
    setting = Setting(arguments.device, arguments.small, arguments.quick, arguments.peak_tflops)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # a process that sees several is refused
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            start = time.monotonic()
            rows = run_section(name, setting, Path(folder))
            found[name] = rows, time.monotonic() - start
            sys.stderr.write(f"{name}: {len(rows)} rows, {found[name][1]:.0f} s\n")
    command = shlex.join(["tests/gpu/check.sh", *(sys.argv[1:] if argv is None else argv)])
    text = "\n".join(table(found, setting, command)) + "\n"
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    return int(any(row.verdict == FAILED for rows, _ in found.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
