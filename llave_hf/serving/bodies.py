"""Bodies of requests, read within limits of size, time and of what all of them hold together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from .answers import RequestError, busy
from .limits import Limits
from .metrics import Metrics

_MARKS = (b"[", b"{", b",")


class Bodies:
    """Holds what requests send until they are answered."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._held = 0

    @contextlib.asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """A request's body; it counts until the block ends.

        Raises:
            RequestError: It is no JSON by its head, too large, too slow, or the server holds enough already.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError("send JSON, with the header Content-Type: application/json.", status=415)
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._limits.body:
            raise self._too_large(int(announced))
        chunks: list[bytes] = []
        held = 0
        try:
            async for chunk in self._chunks(request):
                held += len(chunk)
                self._hold(len(chunk))
                chunks.append(chunk)
                if held > self._limits.body:
                    raise self._too_large(held)
                if self._held > self._limits.bodies:
                    raise busy("the server holds as many bytes of requests as it may; ask again later.", 1.0)
            body = b"".join(chunks)
            chunks.clear()
            marks = sum(body.count(mark) for mark in _MARKS)
            if marks > self._limits.marks:
                raise RequestError(
                    f"the body has {marks} brackets and commas; at most {self._limits.marks}. Send fewer inputs.",
                    status=413,
                )
            yield body
        finally:
            self._hold(-held)

    def _hold(self, count: int) -> None:
        self._held += count
        self._metrics.body_bytes.set(self._held)

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.body_seconds
        more = True
        while more:
            try:
                message = await asyncio.wait_for(request.receive(), until - loop.time())
            except asyncio.TimeoutError:
                raise RequestError(
                    f"the body did not arrive within {self._limits.body_seconds:g} seconds.",
                    status=408,
                    headers={"Connection": "close"},
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            yield message.get("body", b"")

    def _too_large(self, size: int) -> RequestError:
        return RequestError(
            f"the body has {size} bytes or more; at most {self._limits.body}.",
            status=413,
            headers={"Connection": "close"},
        )
