"""`llave serve` as a process: how it starts, and what signals do to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from running import wait_until

from llave_hf import cli

PATIENCE = 240  # seconds for what takes ten on a machine that does nothing else
LONG = {"input": [f"a text of some length, number {number}, " * 20 for number in range(600)]}


def get(address: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer; status 0 where nothing answers."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(address, data, headers), timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


@contextlib.contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its address; killed at the end, if it lives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llave_hf.cli", "serve", str(folder), "--port", str(port), *options]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings)
    address = f"http://127.0.0.1:{port}"
    try:
        yield process, address
    finally:
        process.kill()
        process.communicate()


def wait_until_ready(process: subprocess.Popen[str], address: str) -> None:
    wait_until(lambda: get(f"{address}/health")[0] == 200 or process.poll() is not None, PATIENCE)
    assert process.poll() is None, process.communicate()


@contextlib.contextmanager
def asking(address: str) -> Iterator[Future[tuple[int, Any]]]:
    """A request under way that takes seconds."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(get, f"{address}/v1/embeddings", LONG)

        def is_waiting() -> bool:
            with urlopen(f"{address}/metrics") as answer:
                return b"llave_queue_depth 600.0" in answer.read()

        wait_until(is_waiting, PATIENCE)
        yield asked


@pytest.mark.slow
def test_sigterm_answers_what_is_under_way_and_ends_with_0(folder: Path) -> None:
    with serving(folder, "--served_name", "mine", LLAVE_API_KEY="") as (process, _):
        out, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2 and error.count("\n") == 1 and "LLAVE_API_KEY is set and empty" in error
    with serving(folder, "--served_name", "mine") as (process, address):
        wait_until(lambda: get(f"{address}/health")[0] != 0, PATIENCE)
        states = set()
        while (status := get(f"{address}/health")[0]) == 503:  # the model is being opened
            states.add(get(f"{address}/v1/embeddings", {"input": "a"})[0])
        assert status == 200 and states <= {503, 200}
        assert get(f"{address}/v1/models")[1]["data"][0]["id"] == "mine"
        with asking(address) as asked:
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: get(f"{address}/health")[0] == 0, PATIENCE)  # nobody new is let in
            assert not asked.done()
            status, answer = asked.result()
        assert status == 200 and len(answer["data"]) == 600
        out, error = process.communicate(timeout=PATIENCE)
        assert (process.returncode, error) == (0, "")
        assert out == f"Serving mine on {address}/v1/embeddings ({address}/docs)\n"


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_ctrl_c_is_one_line(folder: Path) -> None:
    with serving(folder) as (process, address):
        wait_until_ready(process, address)
        with asking(address) as asked:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            started = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE) == 128 + signal.SIGTERM
            assert time.perf_counter() - started < 5
            assert asked.result() == (0, None)
    with serving(folder) as (process, address):
        wait_until_ready(process, address)
        second = subprocess.run(
            [sys.executable, "-m", "llave_hf.cli", "serve", str(folder), "--port", address.rpartition(":")[2]],
            capture_output=True,
            text=True,
        )
        assert second.returncode == 2 and second.stderr.count("\n") == 1 and "Address already in use" in second.stderr
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
        assert (process.returncode, error) == (130, "llave: stopped\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_inputs", "0"], "--max_inputs is 0"),
        (["--host", "203.0.113.7"], "nothing can be served on 203.0.113.7:8000"),
        (["--host", "no.such.host.invalid"], "nothing can be served on no.such.host.invalid:8000"),
        (["--port", "70000"], "nothing can be served on 127.0.0.1:70000"),
        (["--max_tokens", "0"], "--max_tokens is 0"),
        (["--port", "0", "--max_body", "much"], "'much' is no size"),
        (["--port", "0", "--max_queue", "7"], "--max_queue is 7"),
    ],
)
def test_options_that_cannot_be_are_named(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAVE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", str(folder), *options])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and message in error
