"""What Prometheus is told, in a registry of the server's own."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("llave_requests", "Requests answered", ["path", "status"], registry=own)
        self.seconds = Histogram(
            "llave_request_seconds", "From a request's head to its answer", ["path"], registry=own, buckets=_SECONDS
        )
        self.inputs = Counter("llave_inputs", "Inputs encoded or refused", ["kind", "outcome"], registry=own)
        self.tokens = Counter("llave_tokens", "Tokens encoded, without padding", registry=own)
        self.batch_rows = Histogram("llave_batch_rows", "Inputs of a batch", registry=own, buckets=_ROWS)
        self.batch_tokens = Histogram(
            "llave_batch_tokens", "Tokens of a batch, without padding", registry=own, buckets=_TOKENS
        )
        self.queue_depth = Gauge("llave_queue_depth", "Inputs that wait or are being encoded", registry=own)
        self.body_bytes = Gauge("llave_body_bytes", "Bytes of requests that are not answered yet", registry=own)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)


class Observed:
    """A middleware that counts and times requests, by path and status, and passes everything on as it is."""

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
