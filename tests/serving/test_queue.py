"""Whose turn it is, what shares a batch, and what becomes of requests where the model fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from helpers import picture
from running import Running, gated, running, wait_until

from llave_hf import LlaveSentenceTransformer
from llave_hf.encoding.lean_decoding import LeanDecoding
from llave_hf.encoding.rows import Row
from llave_hf.model.media_pictures_llave import Medium
from llave_hf.serving.inputs import Input
from llave_hf.serving.limits import Limits
from llave_hf.serving.queue import TEXTS_PER_TURN, Job, Pool, Ready, Turns
from llave_hf.serving.served import open_model


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def job_of(loop: asyncio.AbstractEventLoop, *kinds: str) -> Job:
    shown = [Medium("a picture", content=b"-")]
    return Job([Input("t", shown if kind == "p" else []) for kind in kinds], loop, loop.create_future())


def ready_of(job: Job, length: int) -> Ready:
    return Ready(job, 0, Row(0, {"input_ids": torch.zeros(length, dtype=torch.long)}))


def test_a_short_request_does_not_wait_for_a_long_one(loop: asyncio.AbstractEventLoop) -> None:
    turns = Turns()
    long, short, mixed = job_of(loop, *"t" * 500), job_of(loop, "t"), job_of(loop, *"ttpt")
    for job in (long, short, mixed):
        turns.add(job)
    order = []
    while turns:
        job, places = turns.take()
        order.append((job, places))
    first = list(range(TEXTS_PER_TURN))
    second = [place + TEXTS_PER_TURN for place in first]
    assert order[:4] == [(long, first), (short, [0]), (mixed, [0, 1]), (long, second)]
    assert [places for job, places in order if job is mixed] == [[0, 1], [2], [3]]
    assert [place for job, places in order if job is long for place in places] == list(range(500))


def test_what_has_ended_has_no_turn(loop: asyncio.AbstractEventLoop) -> None:
    turns, pool, (gone, here) = Turns(), Pool(), (job_of(loop, *"t" * 99), job_of(loop, "t"))
    for job in (gone, here):
        turns.add(job)
        pool.add(ready_of(job, 5))
    gone.fail(ValueError("no more"))
    assert turns.take()[0] is here and not turns
    assert [ready.job for ready in pool.take(100)] == [here] and len(pool) == pool.tokens == 0
    pool.add(ready_of(gone, 5))
    assert pool.take(100) == [] and pool.tokens == 0


def test_a_batch_has_the_oldest_row_and_those_like_it(loop: asyncio.AbstractEventLoop) -> None:
    pool = Pool()
    rows = [ready_of(job_of(loop, "t"), length) for length in (10, 50, 11, 9, 200, 10, 48)]
    for ready in rows:
        pool.add(ready)
    lengths = []
    while pool:
        lengths.append([len(ready.row) for ready in pool.take(100)])
    assert lengths == [[10, 10, 11, 9], [50, 48], [200]]


def test_a_batch_is_not_mostly_padding(loop: asyncio.AbstractEventLoop) -> None:
    """A short text beside a long one takes as long as that; little padding is cheaper than another batch."""
    pool = Pool()
    for length in (30, 100, 31, 24, 95, 29):
        pool.add(ready_of(job_of(loop, "t"), length))
    assert sorted(len(ready.row) for ready in pool.take(1024)) == [24, 29, 30, 31]
    assert sorted(len(ready.row) for ready in pool.take(1024)) == [95, 100]
    for length in (30, 100, 31):
        pool.add(ready_of(job_of(loop, "t"), length))
    assert sorted(len(ready.row) for ready in pool.take(16384)) == [30, 31, 100]  # as on a GPU


def test_texts_of_any_lengths_share_a_batch_that_needs_no_padding(loop: asyncio.AbstractEventLoop) -> None:
    pool = Pool()
    for length in (30, 100, 31, 24, 95, 29, 90):
        pool.add(ready_of(job_of(loop, "t"), length))
    assert sorted(len(ready.row) for ready in pool.take(1024, 512)) == [24, 29, 30, 31, 90, 95, 100]
    for length in (30, 100, 100, 31, 24, 95, 29, 90, 95):  # more than that wait: half of it may be mixed
        pool.add(ready_of(job_of(loop, "t"), length))
    assert sorted(len(ready.row) for ready in pool.take(1024, 512)) == [24, 29, 30, 31, 90]
    assert sorted(len(ready.row) for ready in pool.take(1024, 512)) == [95, 95, 100, 100]
    for length in (30, 100, 31):
        pool.add(ready_of(job_of(loop, "t"), length))
    assert sorted(len(ready.row) for ready in pool.take(64, 512)) == [30, 31]  # what --max_tokens says, holds
    pool.add(Ready(job_of(loop, "p"), 0, Row(0, {"input_ids": torch.zeros(20)}, {"pixel_values": torch.zeros(1)})))
    assert [len(ready.row) for ready in pool.take(1024, 512)] == [100]  # pictures have no mask for each pair of tokens


def test_prefixes_are_run_once_for_all_requests(
    folder: Path, encoder: LlaveSentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    kept = LeanDecoding.share
    monkeypatch.setattr(LeanDecoding, "share", lambda self, prefix: (made.append(len(prefix)), kept(self, prefix))[1])
    model = open_model(str(folder), Limits(), device="cpu")
    entries: list[Any] = ["a dog", "one", "x", "what is it", {"image": picture(), "text": "what"}, "a dog", "alone"]
    inputs = [Input(entry) if isinstance(entry, str) else Input("what", [_png()]) for entry in entries]
    rows = [row for entry in inputs for row in model.prepare([entry])]
    assert all(isinstance(row, Row) for row in rows)
    batches = [rows[:4], rows[4:5], rows[5:6], rows[6:]]  # of one row, too
    vectors = torch.cat([model.encode([row for row in batch if isinstance(row, Row)]) for batch in batches])
    assert np.abs(vectors.numpy() - encoder.encode(entries)).max() <= 1e-6
    assert len(made) == 1 and made[0] > 10  # the system turn
    asked = ["Find an image that matches the given caption: " + text for text in ("a", "bc", "d", "ef")]
    more = [row for text in asked for row in model.prepare([Input(text)]) if isinstance(row, Row)]
    vectors = torch.cat([model.encode(more), model.encode(more[:1])])
    assert np.abs(vectors.numpy() - encoder.encode([*asked, asked[0]])).max() <= 1e-6
    assert len(made) == 2 and made[1] > made[0] + 8


def _png() -> Medium:
    import io

    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    return Medium("a picture", content=buffer.getvalue())


def test_a_batch_that_fails_is_encoded_one_by_one(
    folder: Path, encoder: LlaveSentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    """As for want of memory: the others are answered, the one at fault is a 500, and /health says so until it goes."""
    with running(folder) as server, ThreadPoolExecutor(4) as pool:
        model = server.state.batcher.model
        encode = model.encode
        poison = len(encoder.processor(text=["poison " * 9])["input_ids"][0])

        def failing(rows: Any) -> torch.Tensor:
            if any(len(row) == poison for row in rows):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(rows)

        model.encode = failing  # type: ignore[method-assign]
        with gated(server) as gate, caplog.at_level(logging.WARNING):
            first = pool.submit(server.embed, input="first")
            assert gate.reached.wait(10)
            mates = [pool.submit(server.embed, input=text) for text in ("a mate " * 12, "poison " * 9, "a mate " * 11)]
            while server.number("llave_queue_depth") < 4:
                pass
            gate.opened.set()
            for future, text in zip(
                [first, mates[0], mates[2]], ["first", "a mate " * 12, "a mate " * 11], strict=True
            ):
                assert np.abs(future.result() - encoder.encode([text])).max() <= 1e-6
            with pytest.raises(openai.InternalServerError, match="the model failed"):
                mates[1].result()
        assert "encoded one by one" in caplog.text
        with pytest.raises(openai.InternalServerError):
            server.embed(input="poison " * 9)
        assert _health(server) == 503
        server.embed(input="all is well")
        assert _health(server) == 200


def _health(server: Running) -> int:
    return server.raw("GET", "/health").status


def test_metrics(server: Running) -> None:
    server.embed(input=["a", "b"])
    wait_until(lambda: server.number("llave_requests_total", path="/v1/embeddings", status="200") == 1)
    text = server.raw("GET", "/metrics").content.decode()
    for line in (
        'llave_request_seconds_bucket{le="60.0",path="/v1/embeddings"} 1.0',
        'llave_inputs_total{kind="text",outcome="encoded"} 2.0',
        "llave_batch_rows_sum 2.0",
        "llave_queue_depth 0.0",
    ):
        assert f"{line}\n" in text, line
    assert server.number("llave_tokens_total") > 0 and server.number("process_resident_memory_bytes") > 0
    for path in ("/docs", "/openapi.json"):
        assert server.raw("GET", path).status == 200
    assert b"encoding_format" in server.raw("GET", "/openapi.json").content
    server.raw("GET", "/a/path/that/a/client/made/up")
    wait_until(lambda: server.number("llave_requests_total", path="other", status="404") == 1)
