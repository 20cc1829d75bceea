"""Addresses: real servers on loopback that stand for public ones, and every way into a private network."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import openai
import pytest
from helpers import picture
from running import picture_part, running, user

from llave_hf import LlaveSentenceTransformer
from llave_hf.model.media_llave import MediaError
from llave_hf.serving.fetch import Fetcher, Numbers, is_public, resolve

PRIVATE = (
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
    *(
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2",),  # Teredo
)
PUBLIC = ("1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101")


class Pages(BaseHTTPRequestHandler):
    """What a web server may do to whoever fetches from it."""

    asked: list[str] = []
    picture = b""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "to":  # /to/127.0.0.1:80/x
            self.answer(302, b"", Location=f"http://{rest}")
        elif kind == "scheme":
            self.answer(302, b"", Location=f"{rest}:///etc/passwd")
        elif kind == "again":
            self.answer(302, b"", Location=self.path)
        elif kind == "large":
            self.answer(200, b"x" * 3000)
        elif kind == "lies":
            self.answer(200, b"x" * 3000, length=None)
        elif kind == "packed":
            self.answer(200, self.picture, Content_Encoding="gzip")
        elif kind == "slow":
            time.sleep(1)
            self.answer(200, self.picture)
        elif kind == "none":
            self.answer(404, b"")
        else:
            self.answer(200, self.picture)

    def answer(self, status: int, content: bytes, length: int | None = 0, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
        except ConnectionError:  # whoever asked has seen enough
            self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A web server on loopback, at its port."""
    shown = io.BytesIO()
    picture(20, 20).save(shown, "PNG")
    Pages.picture = shown.getvalue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def asked() -> list[str]:
    Pages.asked.clear()
    return Pages.asked


def is_the_test_server(number: str) -> bool:
    """127.0.0.1 stands for the public network; the rest of loopback is as private as ever."""
    return number == "127.0.0.1" or is_public(number)


def fetched(address: str, **options: object) -> bytes:
    settings = {"max_bytes": 2000, "allowed": is_the_test_server, "seconds": 5.0, **options}
    return asyncio.run(Fetcher(**settings)(address))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", PRIVATE)
def test_private_numbers(number: str) -> None:
    assert not is_public(number)


@pytest.mark.parametrize("number", PUBLIC)
def test_public_numbers(number: str) -> None:
    assert is_public(number)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_never_asked_however_it_is_written(host: str, port: int, asked: list[str]) -> None:
    with pytest.raises(MediaError):
        asyncio.run(Fetcher(2000)(f"http://{host}:{port}/picture.png"))
    assert asked == []


def test_what_a_public_server_has_is_fetched(port: int) -> None:
    assert fetched(f"http://127.0.0.1:{port}/bild-ä.png#part") == Pages.picture
    assert fetched(f"http://127.0.0.1:{port}/to/127.0.0.1:{port}/picture.png") == Pages.picture


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("to/127.0.0.2:{port}/x", "into a private network"),
        ("to/169.254.169.254/latest/meta-data", "into a private network"),
        ("to/[::1]:{port}/x", "into a private network"),
        ("to/10.0.0.1/x", "into a private network"),
        ("to/user:word@127.0.0.1:{port}/x", "has a user name"),
        ("scheme/file", "no http:// or https:// address"),
        ("scheme/gopher", "no http:// or https:// address"),
        ("again", "redirected more than 3 times"),
        ("large", "more than 2000 bytes"),
        ("lies", "more than 2000 bytes"),
        ("packed", "sends it compressed"),
        ("none", "answers 404"),
    ],
)
def test_what_a_server_may_not_do(path: str, message: str, port: int, asked: list[str]) -> None:
    with pytest.raises(MediaError, match=message):
        fetched(f"http://127.0.0.1:{port}/{path.format(port=port)}")
    assert 1 <= len(asked) <= 4


def test_a_slow_server_is_left(port: int) -> None:
    started = time.perf_counter()
    with pytest.raises(MediaError, match=r"within 0\.3 seconds"):
        fetched(f"http://127.0.0.1:{port}/slow", seconds=0.3)
    assert time.perf_counter() - started < 0.9


@pytest.mark.parametrize(
    "address", ["http://", "http://a b/", "http://[::1", "http://x:99999/", "http:///x", "http://\udc80/"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(MediaError):
        fetched(address)


def test_a_name_is_resolved_once_and_the_connection_goes_where_was_looked(port: int, asked: list[str]) -> None:
    """DNS rebinding: the second answer is a private address, which a second look-up would fall for."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    seen: list[str] = []

    async def resolver(host: str, _: int) -> Numbers:
        seen.append(host)
        return answers[len(seen) - 1]

    assert fetched(f"http://rebinding.example:{port}/picture.png", resolver=resolver) == Pages.picture
    assert seen == ["rebinding.example"] and asked == ["/picture.png"]
    with pytest.raises(MediaError, match="into a private network"):  # and now it is private
        fetched(f"http://rebinding.example:{port}/picture.png", resolver=resolver)


def test_one_private_address_among_several_is_enough(port: int, asked: list[str]) -> None:
    async def resolver(*_: object) -> Numbers:
        return ["127.0.0.1", "10.0.0.1"]

    with pytest.raises(MediaError, match="into a private network"):
        fetched(f"http://two.example:{port}/picture.png", resolver=resolver)
    assert asked == [] and "127.0.0.1" in asyncio.run(resolve("127.0.0.1", 80))


def test_a_server_that_may_fetch(folder: Path, encoder: LlaveSentenceTransformer, port: int) -> None:
    with running(folder, fetch=Fetcher(2000, allowed=is_the_test_server)) as server:
        got = server.embed(messages=user(picture_part(f"http://127.0.0.1:{port}/picture.png")))
        assert np.abs(got - encoder.encode([{"image": picture(20, 20)}])).max() <= 1e-6
        refused = f"http://127.0.0.1:{port}/to/169.254.169.254/"
        with pytest.raises(openai.BadRequestError, match=r"`messages\[0\].content\[0\]` leads into a private network"):
            server.embed(messages=user(picture_part(refused)))
