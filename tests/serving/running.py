"""A server in a thread of the test's process, its clients, and a gate before its encoder."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore
import numpy as np
import openai
from PIL import Image

from llave_hf.serving.limits import Limits
from llave_hf.serving.listening import listen
from llave_hf.serving.served import open_model
from llave_hf.serving.server import Server
from llave_hf.serving.state import ServerState

NAME = "tiny"


@dataclass
class Running:
    """A server that answers.

    Attributes:
        state: Its own.
        address: Of its root.
        port: On loopback.
    """

    state: ServerState
    address: str
    port: int

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0)

    def embed(self, **fields: Any) -> np.ndarray:
        """The vectors of a request with any fields, by openai's client."""
        answer = self.client().post("/embeddings", body=fields, cast_to=openai.types.CreateEmbeddingResponse)
        return np.array([entry.embedding for entry in answer.data], dtype=np.float32)

    def raw(self, method: str, path: str, content: Any = None, **headers: str) -> httpcore.Response:
        """An answer to whatever is sent."""
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        with httpcore.ConnectionPool() as pool:
            return pool.request(method, f"{self.address}{path}", headers=sent, content=content)

    def number(self, name: str, **labels: str) -> float:
        """A value of the server's metrics."""
        return self.state.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Running]:
    """A server of a model's folder; `options` are those of [`ServerState`]."""
    state = ServerState(**{"name": NAME, **options})
    state.open(lambda: open_model(str(folder), state.limits, device="cpu"))
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(state)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(state, f"http://127.0.0.1:{port}", port)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Raises AssertionError where a condition does not come about."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


@dataclass
class Gate:
    """Before an encoder.

    Attributes:
        reached: The encoder stands before it.
        opened: It may go on.
    """

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def gated(server: Running) -> Iterator[Gate]:
    """The encoder waits until the gate is opened, or the block ends."""
    model, gate = server.state.batcher.model, Gate()
    encode = model.encode

    def waiting(rows: Any) -> Any:
        gate.reached.set()
        assert gate.opened.wait(30)
        return encode(rows)

    model.encode = waiting  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        gate.opened.set()
        model.encode = encode  # type: ignore[method-assign]


def data_uri(image: Image.Image, kind: str = "png") -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_part(uri: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": uri}}


def clip_part(content: bytes) -> dict[str, Any]:
    uri = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
    return {"type": "video_url", "video_url": {"url": uri}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Messages with one turn of the user."""
    return [{"role": "user", "content": list(parts)}]


SMALL = Limits(body=60_000, inputs=4, pictures=2, pixels=10_000, queue=6, body_seconds=0.5)
