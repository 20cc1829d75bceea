"""`llave serve` as a process is green in every form that it offers, by the command and its key."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from local_model import Local

from llave_hf import cli


@pytest.fixture
def address(local: Local) -> Iterator[str]:
    command = [sys.executable, "-m", "llave_hf.cli", "serve", str(local.folder), "--port", "0", "--served_name", "own"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "LLAVE_API_KEY": "secret"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=settings)
    patience = threading.Timer(90, process.kill)
    patience.start()
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield next(line for line in lines if line.startswith("Serving ")).split(" on ")[1].split("/v1/")[0]
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_llave_serve(
    address: str, local: Local, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    cli.main(["verify", str(local.folder), "--url", address, "--api_key_env", "MY_KEY"])  # ends with 1 where off
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "right: input, input-list, input-base64, messages"
    assert ", model own, " in printed[0] and sum("not offered" in line for line in printed) == 4
    kinds = {line[10:32].strip() for line in printed if line.startswith("messages") and line.endswith("right")}
    assert {"pictures", "several pictures", "a clip", "transparency", "a turned photo", "instructions"} <= kinds
