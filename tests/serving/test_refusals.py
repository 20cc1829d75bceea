"""What is wrong with a request is one 4xx in OpenAI's form, and nobody else's trouble."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from helpers import picture, pictures, write_video
from hostile import flat_png
from PIL import Image
from running import (
    NAME,
    SMALL,
    Running,
    clip_part,
    data_uri,
    gated,
    picture_part,
    running,
    text_part,
    user,
    wait_until,
)

from llave_hf import LlaveSentenceTransformer
from llave_hf.errors import UserError
from llave_hf.serving.limits import Limits, parse_size

NO_PICTURE = picture_part("data:image/png;base64,AAAA")


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[Running]:
    """A server that takes little, and asks for a key."""
    with running(folder, limits=SMALL, key="sesame") as found:
        yield found


@pytest.mark.parametrize(
    ("fields", "status", "param", "message"),
    [
        ({"input": "a", "model": "other"}, 404, "model", "no model 'other' here; this server has 'tiny'"),
        ({"input": [[1, 2], [3]]}, 400, "input", "token ids"),
        ({"input": [1, 2]}, 400, "input", "token ids"),
        ({"input": []}, 400, "input", "it is empty"),
        ({"input": ["a", None]}, 400, "input", "entry 1 is no string"),
        ({"input": ["a", {"image": "x"}]}, 400, "input", "go into `messages`"),
        ({"input": 3}, 400, "input", "neither a string nor a list"),
        ({}, 400, "input", "neither `input` nor `messages`"),
        ({"input": "a", "messages": []}, 400, "input", "both `input` and `messages`"),
        ({"input": "a", "top_k": 3}, 400, "top_k", "`top_k` is a field that this server does not know"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": 25}, 400, "dimensions", "1 to 24"),
        ({"input": "a", "dimensions": 2.5}, 400, "dimensions", "integer"),
        ({"input": "a", "dimensions": float("nan")}, 400, "dimensions", "integer"),
        ({"input": "a", "dimensions": True}, 400, "dimensions", "integer"),
        ({"input": "a", "dimensions": 10**400}, 400, "dimensions", "less than or equal to"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "prompt_name": "none"}, 400, "prompt_name", "prompts are: query, document"),
        ({"input": "a", "input_type": "none"}, 400, "input_type", "prompts are: query, document"),
        ({"input": "a", "input_type": "query", "prompt_name": "document"}, 400, "prompt_name", "mean the same"),
        ({"input": ["fine", "a " * 5000]}, 400, "input", r"`input\[1\]`: it has \d+ tokens .* at most 4096"),
        ({"input": "a" * 200_000}, 400, "input", "200000 characters; at most 131072"),
        ({"messages": []}, 400, "messages", "nothing to embed"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages", "`messages\\[0\\].role`"),
        ({"messages": user({"type": "input_audio", "data": ""})}, 400, "messages", "'text', 'image_url', 'video_url'"),
        ({"messages": user(picture_part("file:///etc/passwd"))}, 400, "messages", "neither a data URI"),
        ({"messages": user(picture_part("/etc/passwd"))}, 400, "messages", "neither a data URI"),
        ({"messages": user(picture_part("https://a.example/b.png"))}, 400, "messages", "without --allow_fetch"),
        ({"messages": user(picture_part("data:image/png;base64,A"))}, 400, "messages", "no base64"),
        ({"messages": user(picture_part("data:image/png;base64,"))}, 400, "messages", "without data"),
        (
            {"messages": user(text_part("a"), NO_PICTURE)},
            400,
            "messages",
            r"`messages\[0\].content\[1\]` is no readable",
        ),
        (
            {"messages": user({**NO_PICTURE, "uuid": "x"})},
            400,
            "messages",
            r"`messages\[0\].content\[0\].uuid` is a field",
        ),
        ({"messages": user(clip_part(b"no video"))}, 400, "messages", "cannot be decoded"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    fields: dict[str, Any], status: int, param: str, message: str, server: Running
) -> None:
    answer = server.raw("POST", "/v1/embeddings", json.dumps(fields).encode(), content_type="application/json")
    error = json.loads(answer.content)["error"]
    assert (answer.status, error["param"], error["type"]) == (status, param, "invalid_request_error")
    with pytest.raises(openai.APIStatusError, match=message):
        server.embed(**json.loads(json.dumps(fields).replace("NaN", "0.5")))


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff\xfe{}", "application/json", 400),
        (b'{"input": "\\ud800"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"input":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "application/json", 400),
        (b'["a"]', "application/json", 400),
        (b"null", "application/json", 400),
        (b"[" + b"1," * 1_000_000 + b"1]", "application/json", 413),
        (b'{"input": "a"}', "text/plain", 415),
        (b'{"input": "a"}', "application/x-www-form-urlencoded", 415),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, kind: str, status: int, server: Running) -> None:
    answer = server.raw("POST", "/v1/embeddings", body, content_type=kind)
    assert answer.status == status and json.loads(answer.content)["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/embeddings", 405), ("POST", "/v1/none", 404)])
def test_other_paths_and_methods(method: str, path: str, status: int, server: Running) -> None:
    answer = server.raw(method, path)
    assert answer.status == status and path in json.loads(answer.content)["error"]["message"]


def test_batch_mates_of_a_bad_input_are_answered(server: Running, encoder: LlaveSentenceTransformer) -> None:
    texts = [f"mate {number}" for number in range(6)]
    bad = user(NO_PICTURE)
    with ThreadPoolExecutor(9) as pool:
        with gated(server) as gate:
            first = pool.submit(server.embed, input="the first")
            assert gate.reached.wait(10)
            mates = [pool.submit(server.embed, input=text) for text in texts]
            refused = pool.submit(server.embed, messages=bad)
            too_long = pool.submit(server.embed, input=["fine", "a " * 5000])
            # Refused while the encoder still stands: nothing bad ever comes to it.
            for failing in (refused, too_long):
                with pytest.raises(openai.BadRequestError):
                    failing.result()
            assert not any(mate.done() for mate in mates)
            gate.opened.set()
        got = np.concatenate([first.result(), *[mate.result() for mate in mates]])
    assert np.abs(got - encoder.encode(["the first", *texts])).max() <= 1e-6
    assert server.number("llave_queue_depth") == 0


def test_a_full_queue_is_429_and_says_when(small: Running) -> None:
    client = small.client("sesame")
    with ThreadPoolExecutor(2) as pool, gated(small) as gate:
        waiting = [pool.submit(client.embeddings.create, model=NAME, input=["a", "b", "c"]) for _ in range(2)]
        wait_until(lambda: small.number("llave_queue_depth") == 6)
        with pytest.raises(openai.RateLimitError, match="6 inputs wait, and at most 6 may") as refused:
            client.embeddings.create(model=NAME, input="d")
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        gate.opened.set()
        assert [len(future.result().data) for future in waiting] == [3, 3]
    assert len(client.embeddings.create(model=NAME, input="d").data) == 1


def test_a_client_that_has_gone_is_dropped(server: Running) -> None:
    body = json.dumps({"input": ["left alone"] * 500}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    before = server.number("llave_inputs_total", kind="text", outcome="encoded")
    with ThreadPoolExecutor(1) as pool, gated(server) as gate:
        holding = pool.submit(server.embed, input="one that is being encoded")
        assert gate.reached.wait(10)
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(head.encode() + b"\r\n" + body)
            wait_until(lambda: server.number("llave_queue_depth") == 501)
        wait_until(lambda: server.number("llave_queue_depth") == 1)
        gate.opened.set()
        holding.result()
    server.embed(input="a later one")
    assert server.number("llave_inputs_total", kind="text", outcome="encoded") <= before + 2
    wait_until(lambda: server.number("llave_requests_total", path="/v1/embeddings", status="499") == 1)
    assert server.number("llave_body_bytes") == 0


def test_the_key(small: Running) -> None:
    for wrong in ("none", "s", "sesame2", ""):
        with pytest.raises(openai.APIStatusError) as refused:
            small.client(wrong or "x").embeddings.create(model=NAME, input="a")
        assert refused.value.status_code == 401 and "sesame" not in str(refused.value)
    assert small.raw("GET", "/v1/models").status == 401
    assert small.raw("GET", "/v1/models", authorization="Basic sesame").status == 401
    assert small.client("sesame").models.list().data
    assert small.raw("GET", "/health").status == 200


def test_limits_are_named(small: Running) -> None:
    client = small.client("sesame")
    big, fine = picture(120, 90), picture(40, 30)
    cases = [
        ({"input": ["a"] * 5}, 400, "5 entries; at most 4"),
        ({"input": "a" * 70_000}, 413, "bytes or more; at most 60000"),
        ({"messages": user(*[picture_part(data_uri(picture(8, 8)))] * 3)}, 400, "3 pictures; at most 2"),
        (
            {"messages": user(picture_part(data_uri(big.resize((101, 100)), "jpeg")))},
            400,
            "10100 pixels, over the limit of 10000",
        ),
        ({"messages": user(*[picture_part(data_uri(Image.new("RGB", (80, 80))))] * 2)}, 400, "12800 pixels, over"),
    ]
    for fields, status, message in cases:
        with pytest.raises(openai.APIStatusError, match=message) as refused:
            client.post("/embeddings", body=fields, cast_to=openai.types.CreateEmbeddingResponse)
        assert refused.value.status_code == status
    client.post("/embeddings", body={"messages": user(picture_part(data_uri(fine, "jpeg")))}, cast_to=object)


def png_uri(width: int, height: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(flat_png(width, height)).decode()}"


def test_pictures_and_clips_beyond_the_limit_are_not_decoded(server: Running, small: Running, tmp_path: Path) -> None:
    """By their headers: flat pictures of many megapixels and long clips of nothing are some kilobytes long."""
    flat = io.BytesIO()
    frames = [Image.new("L", (50, 50), 99 * (number % 2)) for number in range(9)]
    frames[0].save(flat, "GIF", save_all=True, append_images=frames[1:])
    long = write_video(tmp_path / "long.mp4", [9] * 1300, size=(16, 16))
    wide = write_video(tmp_path / "wide.mp4", range(20))
    cases = [
        (server, picture_part(png_uri(20_000, 20_000)), "larger than 89478485 pixels"),
        (server, picture_part(png_uri(9000, 9000)), "81000000 pixels, over the limit of 67108864"),
        (small, clip_part(flat.getvalue()), "50 x 50 pixels and 9 frames: 32 frames of it would be 22500 pixels"),
        (small, clip_part(wide.read_bytes()), "32 x 24 pixels and 20 frames: 32 frames of it would be 15360 pixels"),
        (
            small,
            clip_part(long.read_bytes()),
            r"16 x 16 pixels and 125\d frames: it would be 32\d+ pixels, over the limit",
        ),
    ]
    for at, part, message in cases:
        started = time.process_time()
        with pytest.raises(openai.BadRequestError, match=message):
            at.client("sesame").post("/embeddings", body={"messages": user(part)}, cast_to=object)
        assert time.process_time() - started < 0.2, message


def test_a_body_may_not_take_for_ever(small: Running) -> None:
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    head += "Authorization: Bearer sesame\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as slow:
        slow.sendall(head.encode("latin-1"))
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_sizes_and_limits_of_the_command_line() -> None:
    assert [parse_size(text) for text in ("10", "20mb", "1 KB", "2Gb")] == [10, 20 << 20, 1024, 2 << 30]
    for wrong in ("", "mb", "-1", "1.5mb", "3tb"):
        with pytest.raises(UserError, match="is no size"):
            parse_size(wrong)
    with pytest.raises(UserError, match="--max_queue is 3, and a request may have 5"):
        Limits(inputs=5, queue=3)
    with pytest.raises(UserError, match="--max_pixels is 0"):
        Limits(pixels=0)


def test_pictures_beyond_the_first_input_are_named(server: Running) -> None:
    fine, other = (picture_part(data_uri(image)) for image in pictures([(30, 30), (20, 20)]))
    with pytest.raises(openai.BadRequestError, match=r"`messages\[0\].content\[2\]` is no readable picture"):
        server.embed(messages=user(fine, other, NO_PICTURE))


def test_a_head_may_not_be_endless(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sent:
        sent.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 16))
        assert sent.recv(1000).startswith(b"HTTP/1.1 400 ")
