"""`llave serve` under load beside `encode`: requests a second, their times, and what hostile requests leave behind.

    python tests/benchmarks/serve.py [--quick]

The server is a process of its own, its clients a third one: 1, 8 and 64 connections that each send one input a
request and wait for the answer. A pass of `encode` on the same list comes before each round of them. A ratio is a
median over the rounds: of inputs a second by those of `encode`, and of the processor time of `encode` by the server's,
which says the same where other programs keep the cores busy. Server and clients share the cores that `encode` has
alone. The vectors must agree.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import pickle
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from encode import SIZES, images, save_model, seconds, texts

sys.path.append(str(Path(__file__).parents[1] / "serving"))
from hostile import JSON, PATH, hostile_requests

CLIENTS = (1, 8, 64)
HOSTILE = 1000
LIST = 32  # inputs of a request, where a client sends lists


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[int]:
    """A server's port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llave_hf.cli", "serve", str(folder), "--port", str(port), "--served_name", "m"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while ask(port, "GET", "/health")[0] != 200:
            assert process.poll() is None, "the server did not start"
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        assert process.wait(60) == 0, "the server ended with an error"


def ask(port: int, method: str, path: str, body: bytes | None = None, headers: Any = None) -> tuple[int, bytes]:
    """Status and content of an answer on a connection of its own; status 0 for none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (http.client.HTTPException, OSError):
        return 0, b""
    finally:
        connection.close()


def metric(port: int, name: str) -> float:
    """A value of the server's metrics."""
    lines = ask(port, "GET", "/metrics")[1].decode().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1])


def resident(port: int) -> float:
    """MiB that the server has in memory."""
    return metric(port, "process_resident_memory_bytes") / 2**20


def body_of(entries: list[Any]) -> bytes:
    """A request of texts, or of one picture with a text."""
    fields: dict[str, Any] = {"model": "m", "encoding_format": "base64"}
    if isinstance(entries[0], str):
        fields["input"] = entries
    else:
        uri = f"data:image/jpeg;base64,{base64.b64encode(Path(entries[0]['image']).read_bytes()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": entries[0]["text"]}]
        fields["messages"] = [{"role": "user", "content": parts}]
    return json.dumps(fields).encode()


def vectors_of(answer: bytes) -> list[np.ndarray]:
    return [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in json.loads(answer)["data"]]


def load(port: int, clients: int, bodies: list[bytes]) -> tuple[float, list[float], list[bytes]]:
    """Seconds in all and of each request, and the answers; so many clients share the requests."""
    times, answers = [0.0] * len(bodies), [b""] * len(bodies)
    left = iter(range(len(bodies)))
    taking, starting = threading.Lock(), threading.Barrier(clients + 1)

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.connect()
        starting.wait()
        while True:
            with taking:
                number = next(left, None)
            if number is None:
                return connection.close()
            started = time.perf_counter()
            connection.request("POST", PATH, bodies[number], JSON)
            answer = connection.getresponse()
            answers[number] = answer.read()
            times[number] = time.perf_counter() - started
            assert answer.status == 200, answers[number]

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    starting.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, times, answers


def loading() -> None:
    """The clients' process: reads loads from standard input and writes what came of them."""
    while True:
        try:
            port, clients, bodies = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(load(port, clients, bodies), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def compare(name: str, ours: Any, corpus: list[Any], port: int, rounds: int, clients: Any) -> None:
    """Prints a row for each number of clients; raises AssertionError where vectors differ."""
    singles = [body_of([entry]) for entry in corpus]
    sides: dict[str, tuple[int, list[bytes]]] = {str(count): (count, singles) for count in CLIENTS}
    if isinstance(corpus[0], str):
        lists = [body_of(corpus[start : start + LIST]) for start in range(0, len(corpus), LIST)]
        sides[f"4, lists of {LIST}"] = (4, lists)
    ratios: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        worked = time.process_time()
        alone, expected = seconds(lambda: ours.encode(corpus))
        worked = time.process_time() - worked
        for side, (count, bodies) in sides.items():
            before = metric(port, "process_cpu_seconds_total")
            pickle.dump((port, count, bodies), clients.stdin)
            clients.stdin.flush()
            whole, each, answers = pickle.load(clients.stdout)
            got = np.stack([vector for answer in answers for vector in vectors_of(answer)])
            difference = float(np.abs(got - expected).max())
            assert difference <= 1e-6, f"vectors differ by {difference:.1e}"
            ratios[side].append((alone / whole, worked / (metric(port, "process_cpu_seconds_total") - before)))
            times[side] += each
    for side in sides:
        p50, p99 = np.percentile(times[side], [50, 99]) * 1000
        by_time, by_work = (statistics.median(found) for found in zip(*ratios[side], strict=True))
        rates = f"{by_time:.2f} x | {by_work:.2f} x"
        print(f"| {name} | {side} | {p50:.0f} | {p99:.0f} | {rates} | {difference:.0e} |", flush=True)


def attack(port: int, count: int) -> None:
    """Prints what became of hostile requests; raises AssertionError for anything but a 4xx."""
    for sent in hostile_requests(count // 5, seed=1):  # what is loaded and kept once
        ask(port, sent.method, sent.path, sent.body, sent.headers)
    before, started = resident(port), time.perf_counter()
    statuses: Counter[int] = Counter()
    for sent in hostile_requests(count, seed=2):
        status, _ = ask(port, sent.method, sent.path, sent.body, sent.headers)
        statuses[status] += 1
        assert 400 <= status < 500, f"{status}: {sent.kind} {sent.body[:80]!r}"
    took = time.perf_counter() - started
    named = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(f"\n{count} hostile requests in {took:.0f} s: {named}; memory {before:.0f} to {resident(port):.0f} MiB")


def report(folder: Path, rounds: int, scale: float) -> None:
    from llave_hf import LlaveSentenceTransformer

    save_model(folder / "model")
    media = folder / "media"
    media.mkdir()
    numbers = np.random.default_rng(0)
    pictures = [{"image": path, "text": "what is it?"} for path in images(media, numbers, round(24 * scale), SIZES)]
    corpora = {"texts": texts(numbers, round(128 * scale)), "pictures with a text": pictures}
    ours = LlaveSentenceTransformer(str(folder / "model"), device="cpu")
    command = [sys.executable, __file__, "--load"]
    clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with clients, serving(folder / "model") as port:
        print(
            "| inputs | clients | p50, ms | p99, ms | rate by encode's | work of encode by ours | largest difference |"
        )
        print("|---|---|---|---|---|---|---|")
        for name, corpus in corpora.items():
            entries = [corpus[place] for place in numbers.permutation(len(corpus))]
            ours.encode(entries[:8])
            load(port, 8, [body_of([entry]) for entry in entries[:8]])
            compare(name, ours, entries, port, rounds, clients)
        attack(port, round(HOSTILE * scale))
        assert clients.stdin is not None
        clients.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small corpora, one round: does it run?")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        loading()
        return
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), rounds=1 if arguments.quick else 3, scale=0.25 if arguments.quick else 1.0)


if __name__ == "__main__":
    main()
