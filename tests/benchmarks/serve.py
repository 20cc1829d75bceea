"""`llave serve` under load beside `encode`: requests a second, their times, and what hostile requests leave behind.

    python tests/benchmarks/serve.py [--quick]

The server is a process of its own, its clients a third one: 1, 8 and 64 connections that each send one input a
request and wait for the answer. The passes of `encode` on the same inputs come before each round of them: one of the
whole list, and one that gives it as many inputs a call as there are clients, which is all that a server can know at a
time. A ratio is a median over the rounds: of inputs a second by those of `encode`, and of the processor time of
`encode` by the server's, which says the same where other programs keep the cores busy. Clients' processor time is in
neither. The vectors must agree.

The control is the same server with a model that answers a constant at once: what a request costs besides the model.
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
from encode import SIZES, VISION_384, images, save_model, seconds, texts

from llave_hf.checkpoints.from_scratch import build_from_scratch

sys.path.append(str(Path(__file__).parents[1] / "serving"))
from hostile import JSON, PATH, hostile_requests

CLIENTS = (1, 8, 64)
HOSTILE = 1000
LIST = 32  # inputs of a request, where a client sends lists


@contextlib.contextmanager
def serving(folder: Path, constant: bool = False) -> Iterator[int]:
    """A server's port; `constant`: of the control."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [__file__, "--constant"] if constant else ["-m", "llave_hf.cli"]
    command = [sys.executable, *started, "serve", str(folder), "--port", str(port), "--served_name", "m"]
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


Load = tuple[float, list[float], list[bytes], float]


def load(port: int, clients: int, bodies: list[bytes]) -> Load:
    """Seconds in all and of each request, the answers, and the clients' processor time; they share the requests."""
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
    started, worked = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, times, answers, time.process_time() - worked


def loading() -> None:
    """The clients' process: reads loads from standard input and writes what came of them."""
    while True:
        try:
            port, clients, bodies = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(load(port, clients, bodies), sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Clients:
    """The process of the clients."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "--load"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def load(self, *arguments: Any) -> Load:
        """[`load`] in it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(arguments, self._process.stdin)
        self._process.stdin.flush()
        found: Load = pickle.load(self._process.stdout)
        return found

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def encoded(ours: Any, corpus: list[Any], at_a_time: int) -> tuple[float, float, np.ndarray]:
    """Seconds and processor time of `encode` with so many inputs a call, and the vectors."""
    worked = time.process_time()
    starts = range(0, len(corpus), at_a_time)
    took, made = seconds(lambda: [ours.encode(corpus[start : start + at_a_time]) for start in starts])
    return took, time.process_time() - worked, np.concatenate(made)


def compare(name: str, ours: Any, corpus: list[Any], port: int, rounds: int, clients: Clients) -> None:
    """Prints a row for each number of clients; raises AssertionError where vectors differ."""
    singles = [body_of([entry]) for entry in corpus]
    sides: dict[str, tuple[int, int, list[bytes]]] = {str(count): (count, count, singles) for count in CLIENTS}
    if isinstance(corpus[0], str):
        lists = [body_of(corpus[start : start + LIST]) for start in range(0, len(corpus), LIST)]
        sides[f"4, lists of {LIST}"] = (4, LIST, lists)
    ratios: dict[str, list[tuple[float, ...]]] = {side: [] for side in sides}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        alone, alone_work, expected = encoded(ours, corpus, len(corpus))
        for side, (count, at_a_time, bodies) in sides.items():
            parts, parts_work, _ = encoded(ours, corpus, at_a_time)
            before = metric(port, "process_cpu_seconds_total")
            whole, each, answers, _ = clients.load(port, count, bodies)
            work = metric(port, "process_cpu_seconds_total") - before
            got = np.stack([vector for answer in answers for vector in vectors_of(answer)])
            difference = float(np.abs(got - expected).max())
            assert difference <= 1e-6, f"vectors differ by {difference:.1e}"
            ratios[side].append((alone / whole, alone_work / work, parts / whole, parts_work / work))
            times[side] += each
    for side in sides:
        p50, p99 = np.percentile(times[side], [50, 99]) * 1000
        rates = " | ".join(f"{statistics.median(found):.2f} x" for found in zip(*ratios[side], strict=True))
        print(f"| {name} | {side} | {p50:.0f} | {p99:.0f} | {rates} | {difference:.0e} |", flush=True)


def control(folder: Path, corpus: list[str], rounds: int, clients: Clients) -> None:
    """Prints what a request costs where the model costs nothing."""
    bodies = [body_of([entry]) for entry in corpus] * 4
    print("\n| clients of the control | requests/s | p50, ms | server's processor time, ms | clients', ms |")
    print("|---|---|---|---|---|")
    with serving(folder, constant=True) as port:
        clients.load(port, 8, bodies)
        for count in CLIENTS:
            found = []
            for _ in range(rounds):
                before = metric(port, "process_cpu_seconds_total")
                whole, each, _, theirs = clients.load(port, count, bodies)
                work = metric(port, "process_cpu_seconds_total") - before
                found.append((whole, statistics.median(each) * len(bodies), work, theirs))
            whole, p50, work, theirs = (statistics.median(values) / len(bodies) for values in zip(*found, strict=True))
            row = f"{1 / whole:.0f} | {p50 * 1000:.1f} | {work * 1000:.1f} | {theirs * 1000:.1f}"
            print(f"| {count} | {row} |", flush=True)


def serve_constant(arguments: list[str]) -> None:
    """`llave` with a model that answers at once."""
    import torch

    from llave_hf.cli import main as llave
    from llave_hf.serving.served import ServedModel

    def constant(self: ServedModel, rows: Any) -> torch.Tensor:
        return torch.full((len(rows), self.dimension), self.dimension**-0.5)

    ServedModel.encode = constant  # type: ignore[method-assign]
    sys.argv[1:] = arguments
    raise SystemExit(llave())


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


def save_larger_model(folder: Path) -> None:
    """Some 80 million parameters, nearly all of them in the language model."""
    model, processor = build_from_scratch(
        texts(np.random.default_rng(1), 400),
        vocab_size=4096,
        vision_config=VISION_384,
        text_config={
            "hidden_size": 640,
            "intermediate_size": 3456,
            "num_hidden_layers": 10,
            "num_attention_heads": 10,
            "num_key_value_heads": 2,
        },
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def report(folder: Path, rounds: int, scale: float) -> None:
    from llave_hf import LlaveSentenceTransformer

    small, larger, media = folder / "model", folder / "larger", folder / "media"
    save_model(small)
    save_larger_model(larger)
    media.mkdir()
    numbers = np.random.default_rng(0)
    pictures = [{"image": path, "text": "what is it?"} for path in images(media, numbers, round(24 * scale), SIZES)]
    corpora = {"texts": texts(numbers, round(128 * scale)), "pictures with a text": pictures}
    workloads = [(small, corpora), (larger, {"texts, larger model": texts(numbers, round(64 * scale))})]
    columns = "p50, ms | p99, ms | rate | work | rate, as many a call | work, as many a call | largest difference"
    print(f"| inputs | clients | {columns} |")
    print("|---|---|---|---|---|---|---|---|---|")
    clients = Clients()
    for path, named in workloads:
        ours = LlaveSentenceTransformer(str(path), device="cpu")
        with serving(path) as port:
            for name, corpus in named.items():
                entries = [corpus[place] for place in numbers.permutation(len(corpus))]
                ours.encode(entries[:8])
                clients.load(port, 8, [body_of([entry]) for entry in entries[:8]])
                compare(name, ours, entries, port, rounds, clients)
    control(small, corpora["texts"], rounds, clients)
    with serving(small) as port:
        attack(port, round(HOSTILE * scale))
    clients.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small corpora, one round: does it run?")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--constant", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        loading()
        return
    if arguments.constant:
        serve_constant(arguments.constant)
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), rounds=1 if arguments.quick else 3, scale=0.25 if arguments.quick else 1.0)


if __name__ == "__main__":
    main()
