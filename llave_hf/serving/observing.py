"""Counts and times requests, by path and status."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics


class Observed:
    """A middleware that passes everything on as it is."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            # The route's pattern: paths that clients make up would each be a line of their own.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path=path, status=str(status)).inc()
            self._metrics.seconds.labels(path=path).observe(time.perf_counter() - started)
