"""Dynamic batching: threads prepare inputs of all requests, and one thread encodes what is ready, by tokens."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

from llave_hf.encoding.engine import default_workers
from llave_hf.encoding.rows import Row

from .answers import RequestError, busy
from .inputs import Input
from .limits import Limits
from .metrics import Metrics
from .queue import Answer, Job, Pool, Ready, Turns
from .served import ServedModel

WAIT = 0.004  # seconds that rows wait for others at most, while others are expected
AHEAD_BATCHES = 8  # of prepared rows that wait at most
_SMOOTHING = 0.1  # of the rate that Retry-After is made of

logger = logging.getLogger(__name__)


class ModelFailure(RuntimeError):
    """The model could not encode an input that is right; standard error has the traceback."""


class Batcher:
    """Encodes the inputs of many requests in common batches.

    Args:
        model: What is served.
        limits: Of inputs that wait.
        metrics: Are told of batches.
        workers: Threads that prepare; None: one a core, at most eight.
    """

    def __init__(self, model: ServedModel, limits: Limits, metrics: Metrics, workers: int | None = None) -> None:
        self.model = model
        self.healthy = True
        self._limits = limits
        self._metrics = metrics
        self._turns = Turns()
        self._ready = Pool()
        self._preparing = 0
        self._pending = 0  # inputs of requests that are not ended
        self._expected = 1  # rows, by the last batch
        self._rate = 10.0  # inputs a second
        self._closing = False
        self._changed = threading.Condition()
        count = default_workers() if workers is None else workers
        self._threads = [threading.Thread(target=self._prepare_all, daemon=True) for _ in range(count)]
        self._threads.append(threading.Thread(target=self._encode_all, name="llave-encoder", daemon=True))
        for thread in self._threads:
            thread.start()

    async def embed(self, entries: Sequence[Input]) -> Answer:
        """The vectors of a request; whoever cancels this takes its inputs out of the queue.

        Raises:
            RequestError: An input cannot be used, or too many wait already.
            ModelFailure: The model failed.
        """
        loop = asyncio.get_running_loop()
        job = Job(entries, loop, loop.create_future())
        with self._changed:
            if self._pending + len(entries) > self._limits.queue:
                raise busy(
                    f"{self._pending} inputs wait, and at most {self._limits.queue} may; ask again later, with fewer "
                    "at once.",
                    self._pending / self._rate,
                )
            self._pending += len(entries)
            self._metrics.queue_depth.set(self._pending)
            self._turns.add(job)
            self._changed.notify_all()
        try:
            return await job.future
        finally:
            with self._changed:
                job.ended = True
                self._pending -= len(entries)
                self._metrics.queue_depth.set(self._pending)

    def close(self) -> None:
        """Ends the threads; what still waits is not encoded."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _prepare_all(self) -> None:
        most = AHEAD_BATCHES * self.model.max_tokens
        while True:
            with self._changed:
                while not self._closing and not (self._turns and self._ready.tokens < most):
                    self._changed.wait()
                if self._closing:
                    return
                job, places = self._turns.take()
                self._preparing += len(places)
            try:
                rows: Sequence[Row | Exception] = self.model.prepare([job.entries[place] for place in places])
            except Exception as error:  # no input's fault: it must not end the thread
                logger.exception("An input could not be prepared.")
                rows = [ModelFailure(type(error).__name__)] * len(places)
            with self._changed:
                self._preparing -= len(places)
                for place, row in zip(places, rows, strict=True):
                    if isinstance(row, Row):
                        self._ready.add(Ready(job, place, row))
                    else:
                        self._refuse(job, place, row)
                self._changed.notify_all()

    def _refuse(self, job: Job, place: int, error: Exception) -> None:
        entry = job.entries[place]
        if isinstance(error, ValueError):
            text = str(error)
            message = text if entry.name in text else f"{entry.name}: {text}"
            param = "input" if entry.name.startswith("`input") else "messages"
            job.fail(RequestError(message, param=param, code="bad_input"))
        else:
            job.fail(error)
        self._metrics.inputs.labels(kind=entry.kind, outcome="refused").inc()

    def _encode_all(self) -> None:
        while (batch := self._next_batch()) is not None:
            started = time.perf_counter()
            self._encode(batch)
            elapsed = max(time.perf_counter() - started, 1e-6)
            self._rate += _SMOOTHING * (len(batch) / elapsed - self._rate)

    def _next_batch(self) -> list[Ready] | None:
        """Rows that are ready, once no more are expected at once; None where the threads are to end."""
        most = self.model.max_tokens
        with self._changed:
            while True:
                while not self._ready and not self._closing:
                    self._changed.wait()
                until = time.monotonic() + WAIT
                while not self._closing and self._ready.tokens < most and self._are_more_expected():
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                if self._closing:
                    return None
                batch = self._ready.take(most, self.model.mixed_tokens)
                self._changed.notify_all()
                if batch:
                    self._expected = len(batch)
                    return batch

    def _are_more_expected(self) -> bool:
        return len(self._ready) < self._expected or self._preparing > 0 or bool(self._turns)

    def _encode(self, batch: list[Ready]) -> None:
        """Encodes a batch and answers; one by one where it fails as a whole."""
        rows = [ready.row for ready in batch]
        try:
            vectors = self.model.encode(rows)
        except Exception as error:  # of PyTorch, out of memory above all
            if len(batch) > 1:
                logger.warning("A batch failed (%s); its inputs are encoded one by one.", type(error).__name__)
                for ready in batch:
                    self._encode([ready])
                return
            logger.exception("The model could not encode an input.")
            self.healthy = False
            batch[0].job.fail(ModelFailure(type(error).__name__))
            return
        self.healthy = True
        self._metrics.batch_rows.observe(len(rows))
        self._metrics.batch_tokens.observe(sum(map(len, rows)))
        for ready, vector, is_finite in zip(batch, vectors, vectors.isfinite().all(1).tolist(), strict=True):
            # Packed texts share a sequence, in which 0 x NaN is NaN: each has another try by itself.
            if not is_finite and len(batch) > 1:
                self._encode([ready])
                continue
            ready.job.deliver(ready.place, vector, len(ready.row))
            self._metrics.tokens.inc(len(ready.row))
            self._metrics.inputs.labels(kind=ready.job.entries[ready.place].kind, outcome="encoded").inc()
