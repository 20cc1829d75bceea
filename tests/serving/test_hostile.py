"""Malformed and hostile requests get a 4xx each, and leave the server as it was."""

from __future__ import annotations

import http.client
import json

import numpy as np
from hostile import hostile_requests
from running import Running

from llave_hf import LlaveSentenceTransformer

COUNT = 170  # ten of each kind; tests/benchmarks/serve.py sends a thousand


def test_each_is_a_4xx_with_a_message(server: Running, encoder: LlaveSentenceTransformer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for sent in hostile_requests(COUNT):
        connection.request(sent.method, sent.path, sent.body, sent.headers)
        try:
            answer = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            raise AssertionError(f"no answer: {sent.kind}, {sent.body[:80]!r}") from None
        text = answer.read()
        assert 400 <= answer.status < 500, f"{answer.status}: {sent.kind}, {sent.body[:80]!r}, {text[:200]!r}"
        told = json.loads(text)["error"]["message"]
        assert told and len(told) < 2000 and "Traceback" not in told, sent.kind
        if answer.will_close or "Content-Length" in sent.headers:
            connection.close()
    assert np.abs(server.embed(input="still here") - encoder.encode(["still here"])).max() <= 1e-6
    assert server.number("llave_queue_depth") == server.number("llave_body_bytes") == 0
    connection.close()
