"""Serves an export of every backbone with vLLM and compares its vectors with the model's own: `make test-vllm`.

    python tests/vllm/serve_exports.py --vllm .venv-vllm/bin/vllm [--kinds qwen2_vl ...] [--models DIR]

Of each backbone a small model with random weights is saved, exported by `llave export`, served on loopback by the
command of its SERVING.md, and asked by `llave verify --url`: first in the forms and for the inputs that SERVING.md
calls right, where every vector must agree, then for those that it calls wrong, where the fault must be found. Ends
with exit code 1 where something is otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from backbones import KINDS, TIMED, save_backbone  # noqa: E402

# Heads of 32 numbers, of 128 in linear attention: vLLM's kernels for CPUs take no fewer.
WIDER = {"qwen3_5": 16}
START_SECONDS = 600
RIGHT_FORMS = ("messages", "v2-inputs", "v2-images")
WRONG_KINDS = ("marks", "transparency", "over")
# Stock code resizes LLaVA-OneVision's pictures with torchvision, the model with Pillow.
# vLLM has linear attention on a CPU in bfloat16 only, which moves vectors of a small random model by this much.
TOLERANCES = {"llava_onevision": "1e-5", "qwen3_5": "1e-3"}
DTYPES = {"qwen3_5": "bfloat16"}
FAULTS = {  # which fault is to be found, by form and kind of input
    ("input", "text"): "no prompt around it",
    ("messages", "marks"): "literal marks are read as special tokens",
    ("messages", "transparency"): "transparency is laid on white",
    ("v2-inputs", "over"): "the end is cut off",  # and after which token
}
COLUMNS = ("text", "limit", "dimensions", "instruction", "picture", "pictures", "clip", "orientation")


def save_and_export(kind: str, root: Path) -> tuple[Path, Path]:
    """The folder of a small model, and its export."""
    from llave_hf import LlaveModel, LlaveProcessor
    from llave_hf.checkpoints.export import export

    backbone = save_backbone(root / "backbone", kind, wider=WIDER.get(kind, 4))
    model, processor = LlaveModel.from_backbone(backbone), LlaveProcessor.from_backbone(backbone)
    if kind in TIMED:  # as published: of pictures the same mean and deviation as of videos
        settings = {**processor.image_settings, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        processor = LlaveProcessor.from_backbone(backbone, image_settings=settings)
    model.config.matryoshka_dimensions = [model.config.hidden_size, model.config.hidden_size // 2]
    model.save_pretrained(root / "model")
    processor.save_pretrained(root / "model")
    print(export(root / "model", root / "stock"), flush=True)
    return root / "model", root / "stock"


def command_of(page: Path) -> list[str]:
    """The command that SERVING.md names."""
    line = next(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("vllm serve "))
    return shlex.split(line)[1:]


@contextmanager
def served(vllm: Path, folder: Path, log: Path, dtype: str | None = None) -> Iterator[str]:
    """A vLLM server on loopback; gives its address, and ends it and all that it started.

    Args:
        vllm: The command.
        folder: An export.
        log: Where its output goes.
        dtype: In place of the one that SERVING.md names.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(vllm), *command_of(folder / "SERVING.md"), "--enforce-eager", "--host", "127.0.0.1"]
    if dtype is not None:
        command[command.index("--dtype") + 1] = dtype
    print("$", shlex.join(["vllm", *command[1:], "--port", str(port)]), flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PATH": f"{vllm.parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            wait_for(server, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            end(server)


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Returns when the server answers; raises with the end of its log where it ends or takes too long."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
    raise RuntimeError(f"vLLM did not start (exit code {server.poll()}):\n{tail}")


def end(server: subprocess.Popen[bytes]) -> None:
    """Ends a server's group of processes."""
    for signal_, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(server.pid, signal_)
            server.wait(seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def verify(model: Path, url: str, file: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Runs `llave verify --url`; gives its exit code and its report."""
    command = [sys.executable, "-m", "llave_hf.cli", "verify", str(model), "--url", url, "--json", str(file), *options]
    print("$", shlex.join(["llave", *command[3:]]), flush=True)
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    print(flush=True)
    if not file.exists():
        raise RuntimeError(f"llave verify wrote no report (exit code {done.returncode}):\n{done.stderr[-2000:]}")
    return done.returncode, json.loads(file.read_text(encoding="utf-8"))


def check(kind: str, vllm: Path, root: Path) -> tuple[list[str], list[str]]:
    """One backbone.

    Returns:
        Its row of the table, and what is not as it should be.
    """
    from llave_hf.serving_check.probes import KINDS as INPUTS

    model, stock = save_and_export(kind, root)
    with served(vllm, stock, root / "vllm.log", DTYPES.get(kind)) as url:
        tolerance = ("--tolerance", TOLERANCES[kind]) if kind in TOLERANCES else ()
        skipped = ("--skip", *WRONG_KINDS)
        code, right = verify(model, url, root / "right.json", "--forms", *RIGHT_FORMS, *skipped, *tolerance)
        known = {kind for _, kind in FAULTS}
        skipped = ("--skip", *(name for name in INPUTS if name not in known))
        forms = ("--forms", *dict.fromkeys(form for form, _ in FAULTS))
        wrong_code, wrong = verify(model, url, root / "wrong.json", *forms, *skipped, *tolerance)
    bad = [] if code == 0 else [f"{kind}: vectors that SERVING.md calls right are off (exit code {code})"]
    if wrong_code != 1:
        bad.append(f"{kind}: vectors that SERVING.md calls wrong are not (exit code {wrong_code}); mend the page")
    cells = [least(right, kind_of_input) for kind_of_input in COLUMNS]
    for (form, kind_of_input), fault in FAULTS.items():
        entries = [entry for entry in wrong["forms"][form]["inputs"] if entry["kind"] == kind_of_input]
        found = {str(entry.get("cause", {}).get("fault")) for entry in entries if entry["verdict"] == "off"}
        named = all(name.startswith(fault) for name in found)
        if not found or not (named or kind in DTYPES):  # 16 bits blur which fault it is
            bad.append(f"{kind}: {form}, {kind_of_input}: {fault!r} was to be found, not {sorted(found)}")
        cells.append(least(wrong, kind_of_input, form))
    return [kind, *cells], bad


def least(report: dict[str, Any], kind: str, form: str = "messages") -> str:
    """The least cosine of a kind of input in a form."""
    entries = report["forms"][form]["inputs"]
    cosines = [entry["cosine"] for entry in entries if entry["kind"] == kind and entry["cosine"] is not None]
    return f"{min(cosines):.7f}" if cosines else "-"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table in Markdown, a backbone a column: first the forms that are right, then those that are not."""
    from llave_hf.serving_check.probes import KINDS as INPUTS

    names = [*(f"`messages`: {INPUTS[name]}" for name in COLUMNS), *(f"`{form}`: {INPUTS[k]}" for form, k in FAULTS)]
    columns = list(zip(["least cosine", *names], *rows, strict=True))
    lines = ["| " + " | ".join(column) + " |" for column in columns]
    return "\n".join([lines[0], "|---" * len(columns[0]) + "|", *lines[1:]])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vllm", type=Path, default=Path(".venv-vllm/bin/vllm"), help="the command of vLLM")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="backbones (default: all)")
    parser.add_argument("--models", type=Path, help="keep models, logs and reports in this folder")
    arguments = parser.parse_args()
    rows, bad = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in arguments.kinds:
            root = (arguments.models or Path(scratch)).absolute() / kind
            root.mkdir(parents=True)
            row, found = check(kind, arguments.vllm.absolute(), root)
            rows.append(row)
            bad += found
    print(table(rows))
    print("\n".join(bad) or "\nWhat SERVING.md calls right is, and the rest is off for the reasons that it gives.")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
