"""Requests that no server may take, by a seed: valid bodies that were broken, and what an attacker would send."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

PATH = "/v1/embeddings"
JSON = {"Content-Type": "application/json"}
Numbers = np.random.Generator


@dataclass(frozen=True)
class Sent:
    """A request: what it is called, and what goes over the wire."""

    kind: str
    body: bytes
    method: str = "POST"
    path: str = PATH
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


def hostile_requests(count: int, seed: int = 0) -> Iterator[Sent]:
    """So many requests, each of which is to be answered with a 4xx."""
    numbers = np.random.default_rng(seed)
    makers: list[Callable[[Numbers], Sent]] = [
        *(_cut, _not_utf8, _wrong_type, _unknown_field, _left_out, _both_inputs, _token_ids, _bad_medium, _bomb),
        *(_bad_address, _deep, _many, _too_long, _wrong_head, _wrong_place, _bad_value, _no_json),
    ]
    for number in range(count):
        yield makers[number % len(makers)](numbers)


def _valid(numbers: Numbers) -> dict[str, Any]:
    words = " ".join(f"word{number}" for number in numbers.integers(0, 99, numbers.integers(1, 30)))
    if numbers.random() < 0.5:
        return {"input": [words] * int(numbers.integers(1, 5)), "encoding_format": "float"}
    parts = [{"type": "image_url", "image_url": {"url": _uri(_png(numbers))}}, {"type": "text", "text": words}]
    return {"messages": [{"role": "user", "content": parts}], "dimensions": 3}


def _png(numbers: Numbers) -> bytes:
    pixels = numbers.integers(0, 256, (*numbers.integers(8, 60, 2), 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _uri(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _shown(uri: str, kind: str = "image_url") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: {"url": uri}}]}]}


def _sent(kind: str, fields: Any) -> Sent:
    return Sent(kind, json.dumps(fields).encode())


def _one_of(numbers: Numbers, choices: list[Any]) -> Any:
    return choices[int(numbers.integers(len(choices)))]


def _cut(numbers: Numbers) -> Sent:
    body = json.dumps(_valid(numbers)).encode()
    return Sent("cut off", body[: int(numbers.integers(len(body)))])


def _not_utf8(numbers: Numbers) -> Sent:
    body = bytearray(json.dumps(_valid(numbers)).encode())
    body[int(numbers.integers(len(body)))] = _one_of(numbers, [0xFF, 0xC0, 0x80, 0x00])
    return Sent("a byte that cannot be", bytes(body))


def _wrong_type(numbers: Numbers) -> Sent:
    fields = _valid(numbers)
    name = _one_of(numbers, [*fields, "model", "user", "prompt_name"])
    wrong = [-1, 2.5, True, [], {}, [[]], [{}], float("nan"), float("inf"), 10**5000, [None], {"a": 1}]
    fields[name] = _one_of(numbers, wrong)
    if name == "dimensions":
        fields[name] = _one_of(numbers, [0, -1, 2.5, True, "3", [], 10**9, 1e400, 10**4999])
    return Sent("a wrong type", _dumped(fields))


def _dumped(fields: Any) -> bytes:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(fields).encode()
    finally:
        sys.set_int_max_str_digits(before)


def _unknown_field(numbers: Numbers) -> Sent:
    fields = _valid(numbers)
    name = _one_of(
        numbers, ["truncate_prompt_tokens", "__proto__", "Input", "a" * 10_000, "\u0000", "input\u200b", ""]
    )
    fields[name] = 1
    return _sent("an unknown field", fields)


def _left_out(numbers: Numbers) -> Sent:
    return _sent("no input", {"model": None, "dimensions": 3, "user": "me"})


def _both_inputs(numbers: Numbers) -> Sent:
    return _sent("two inputs", {"input": "a", "messages": [{"role": "user", "content": "b"}]})


def _token_ids(numbers: Numbers) -> Sent:
    ids = numbers.integers(0, 99, 12).tolist()
    return _sent("token ids", {"input": _one_of(numbers, [ids, [ids, ids], [ids, "a"], ["a", 7]])})


def _bad_medium(numbers: Numbers) -> Sent:
    png = _png(numbers)
    wrong = {
        "half a picture": png[: len(png) // 2],
        "a picture's head": png[:30],
        "noise": numbers.bytes(500),
        "a page": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "a program": b"%!PS\n(/etc/passwd) (r) file",
        "a picture of one pixel": flat_png(1, 1),
        "a needle": flat_png(1000, 2),
    }
    name = _one_of(numbers, list(wrong))
    kind = "video_url" if name in ("noise", "a playlist", "half a picture") and numbers.random() < 0.5 else "image_url"
    return _sent(f"{name} ({kind})", _shown(_uri(wrong[name]), kind))


def flat_png(width: int, height: int) -> bytes:
    """A PNG of any size whose pixels take no space: all of them black, and packed."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(min((width // 8 + 2) * height, 1 << 16)))
    chunks = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    made = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def _bomb(numbers: Numbers) -> Sent:
    size = _one_of(
        numbers, [(9000, 9000), (20_000, 20_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)]
    )
    return _sent("a bomb", _shown(_uri(flat_png(*size)), _one_of(numbers, ["image_url", "video_url"])))


def _bad_address(numbers: Numbers) -> Sent:
    addresses = [
        *("http://127.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "https://localhost/a.png"),
        *(
            "file:///etc/passwd",
            "/etc/passwd",
            "../../etc/passwd",
            "gopher://127.0.0.1:6379/",
            "ftp://a/b",
            "\\\\host\\a",
        ),
        *(
            "data:",
            "data:,",
            "data:image/png;base64,",
            "data:image/png;base64,!!!!",
            "data:image/png",
            "DATA:;base64,AA",
        ),
        *("", " ", "concat:/etc/passwd|/etc/hosts", "javascript:alert(1)", "http://", "https://:443/", "a" * 5000),
    ]
    return _sent("an address", _shown(_one_of(numbers, addresses), _one_of(numbers, ["image_url", "video_url"])))


def _deep(numbers: Numbers) -> Sent:
    depth = int(numbers.integers(200, 100_000))
    left, right = _one_of(numbers, [(b"[", b"]"), (b'{"a":', b"}")])
    return Sent("nested deeply", b'{"input":' + left * depth + b"1" + right * depth + b"}")


def _many(numbers: Numbers) -> Sent:
    wrong = [
        {"input": [""] * 3000},
        {"input": ["a"] * 50_000},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": _uri(_png(numbers))}] * 17}]},
        {"messages": [{"role": "user", "content": []}] * 5000},
        {"messages": [{"role": "user", "content": [{"type": "audio"}] * 5000}]},
    ]
    return _sent("too many", _one_of(numbers, wrong))


def _too_long(numbers: Numbers) -> Sent:
    return _sent(
        "too long", {"input": ["fine", _one_of(numbers, ["a " * 5000, "x" * 200_000, "\u0000" * 9000, "🧨" * 5000])]}
    )


def _wrong_head(numbers: Numbers) -> Sent:
    heads = [
        {"Content-Type": "text/plain"},
        {},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "json"},
    ]
    heads += [{**JSON, "Content-Length": "1000000000"}, {**JSON, "Content-Encoding": "gzip"}]
    head = _one_of(numbers, heads)
    packed = "Content-Encoding" in head
    return Sent("a wrong head", zlib.compress(b'{"input":"a"}') if packed else b'{"input":"a"}', headers=head)


def _wrong_place(numbers: Numbers) -> Sent:
    method, path = _one_of(
        numbers,
        [
            ("GET", PATH),
            ("PUT", PATH),
            ("POST", "/v1/../etc/passwd"),
            ("POST", "/v1/models"),
            ("GET", "/v1/models/none"),
            ("POST", "/v1/%00"),
            ("DELETE", "/health"),
        ],
    )
    return Sent("a wrong place", b"{}", method=method, path=path)


def _bad_value(numbers: Numbers) -> Sent:
    name, value = _one_of(
        numbers,
        [
            ("model", "other"),
            ("model", ""),
            ("prompt_name", "../query"),
            ("input_type", "search_query"),
            ("dimensions", 10_000),
            ("encoding_format", "FLOAT"),
            ("encoding_format", "int8"),
            ("model", "a" * 100_000),
            ("prompt_name", "\ud800"),
        ],
    )
    return _sent("a wrong value", {"input": "a", name: value})


def _no_json(numbers: Numbers) -> Sent:
    return Sent(
        "no JSON",
        _one_of(
            numbers,
            [
                b"",
                b"null",
                b"[]",
                b'"a"',
                b"input=a",
                b"{'input': 'a'}",
                b"{" * 5000,
                b"\x00" * 99,
                b"<xml/>",
                b'{"input": "a"}{"input": "b"}',
                b'{"input": NaN}',
                b"\xef\xbb\xbf",
                b"1" * 6000,
            ],
        ),
    )
