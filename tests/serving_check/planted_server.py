"""A small embedding server on loopback that answers with a tiny model, and with whatever fault a test plants in it."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

from llave_hf import LlaveModel, LlaveProcessor

MODEL = "tiny"


@dataclass
class Asked:
    """One input of a request, read."""

    text: str = ""
    pictures: list[bytes] = field(default_factory=list)
    clip: bytes | None = None
    prompt: str = ""
    dimensions: int | None = None
    form: str = "input"

    @property
    def media(self) -> dict[str, Any]:
        """Arguments of a processor."""
        return {
            "images": [self.pictures] if self.pictures else None,
            "videos": None if self.clip is None else [self.clip],
        }


Embed = Callable[[Asked], np.ndarray]


def embedding(model: LlaveModel, processor: LlaveProcessor) -> Embed:
    """What is right: the processor's prompt, the last token, length 1."""

    def embed(asked: Asked) -> np.ndarray:
        inputs = processor(text=[asked.prompt + asked.text], **asked.media)
        return run(model, inputs)[-1]

    return embed


def run(model: LlaveModel, inputs: Mapping[str, Any]) -> np.ndarray:
    """Hidden states `(T, D)` of one sequence, not normalised."""
    with torch.inference_mode():
        return model(**inputs).last_hidden_state[0].float().numpy()


def run_ids(model: LlaveModel, ids: list[int]) -> np.ndarray:
    """Likewise of token ids alone."""
    return run(model, {"input_ids": torch.tensor([ids])})


def unit(vector: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first numbers, at length 1."""
    kept = vector[:dimensions]
    return kept / np.linalg.norm(kept)


@dataclass
class Planted:
    """How the server answers; each field may be planted.

    Attributes:
        embed: From an input to a vector that is not normalised yet; raises ValueError for an input that is refused,
            and ConnectionAbortedError to end without an answer.
        finish: From that vector and `dimensions` to what is sent.
        change: From the path, the body and the right answer to status and content: bytes, or what becomes JSON.
        models: What /v1/models lists; None: there is no such path.
        paths: What /openapi.json lists; None likewise.
        prompts: By `input_type`.
        key: The API key that is asked for.
        limit: `max_model_len` of /v1/models.
    """

    embed: Embed
    finish: Callable[[np.ndarray, int | None], np.ndarray] = unit
    change: Callable[[str, dict[str, Any], Any], tuple[int, Any]] = lambda path, body, answer: (200, answer)
    models: tuple[str, ...] | None = (MODEL,)
    paths: tuple[str, ...] | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    limit: int | None = None
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@contextlib.contextmanager
def serving(planted: Planted) -> Iterator[str]:
    """The address of a server that runs while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self._has_key():
                return
            if self.path == "/v1/models" and planted.models is not None:
                limit = {} if planted.limit is None else {"max_model_len": planted.limit}
                self._send(200, {"object": "list", "data": [{"id": name, **limit} for name in planted.models]})
            elif self.path == "/openapi.json" and planted.paths is not None:
                self._send(200, {"paths": {path: {} for path in planted.paths}})
            else:
                self._send(404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._has_key():
                return
            planted.seen.append((self.path, body))
            try:
                answer = _answer(planted, self.path, body)
            except ConnectionAbortedError:
                self.close_connection = True
            except KeyError:
                self._send(404, {"detail": "Not Found"})
            except ValueError as error:
                self._send(400, {"error": {"message": str(error), "type": "BadRequestError"}})
            else:
                self._send(*planted.change(self.path, body, answer))

        def _has_key(self) -> bool:
            if planted.key is None or self.headers.get("Authorization") == f"Bearer {planted.key}":
                return True
            self._send(401, {"error": "Unauthorized"})
            return False

        def _send(self, status: int, content: Any) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://elsewhere.invalid/")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that waited long enough
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Not on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(planted: Planted, path: str, body: dict[str, Any]) -> Any:
    if path == "/v1/embeddings":
        inputs = _openai_inputs(planted, body)
        vectors = _vectors(planted, inputs, body.get("dimensions"))
        made: list[Any] = [vector.tolist() for vector in vectors]
        if body.get("encoding_format") == "base64":
            made = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(made)]
        return {"object": "list", "data": data, "model": MODEL}
    if path == "/v2/embed" and (planted.paths is None or path in planted.paths):
        prompt = planted.prompts.get(body.get("input_type") or "", "")
        inputs = [Asked(text, prompt=prompt, form="texts") for text in body.get("texts", ())]
        inputs += [Asked("", [_data(uri)], prompt=prompt, form="images") for uri in body.get("images", ())]
        inputs += [_read(entry["content"], prompt, "inputs") for entry in body.get("inputs", ())]
        vectors = _vectors(planted, inputs, body.get("output_dimension"))
        return {"embeddings": {"float": [vector.tolist() for vector in vectors]}}
    raise KeyError(path)


def _openai_inputs(planted: Planted, body: dict[str, Any]) -> list[Asked]:
    if "messages" in body:
        system = "".join(message["content"] for message in body["messages"] if message["role"] == "system")
        (user,) = (message for message in body["messages"] if message["role"] == "user")
        return [_read(user["content"], system, "messages")]
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    prompt = planted.prompts.get(body.get("input_type") or "", "")
    return [Asked(text, prompt=prompt) for text in texts]


def _read(parts: list[dict[str, Any]], prompt: str, form: str) -> Asked:
    asked = Asked(prompt=prompt, form=form)
    for part in parts:
        if part["type"] == "text":
            asked.text += part["text"]
        elif part["type"] == "image_url":
            asked.pictures.append(_data(part["image_url"]["url"]))
        else:
            asked.clip = _data(part["video_url"]["url"])
    return asked


def _data(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2])


def _vectors(planted: Planted, inputs: list[Asked], dimensions: int | None) -> list[np.ndarray]:
    for asked in inputs:
        asked.dimensions = dimensions
    return [planted.finish(planted.embed(asked), dimensions) for asked in inputs]
