"""Requests that wait: each takes its turn with a few inputs, so that a long list does not keep a short one waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from llave_hf.encoding.rows import Row

from .inputs import Input

TEXTS_PER_TURN = 32  # that share a call of the tokenizer
# Padding that a batch may have: a part of its tokens, or what a batch of its own would cost, as a part of the most
# tokens. Those are the device's, and on a GPU, where a batch costs more, they are more.
PADDING, COST_OF_A_BATCH = 1 / 10, 1 / 32


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        vectors: `(n, D)`, in the order of its inputs.
        tokens: Of all of them, with prompts and pictures.
    """

    vectors: torch.Tensor
    tokens: int


@dataclass(eq=False)
class Job:
    """A request's inputs, and who waits for their vectors.

    Attributes:
        entries: The inputs.
        loop: Of whoever waits.
        future: Is given the [`Answer`], or what is wrong.
    """

    entries: Sequence[Input]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answer]
    ended: bool = False  # answered, failed or dropped: what is left of it needs no work
    tokens: int = 0
    _next: int = 0
    _vectors: dict[int, torch.Tensor] = field(default_factory=dict)

    def take(self) -> list[int]:
        """The places of its next inputs: some texts, or one of another kind."""
        start = end = self._next
        while end < len(self.entries) and end - start < TEXTS_PER_TURN and self.entries[end].is_text:
            end += 1
        self._next = max(end, start + 1)
        return list(range(start, self._next))

    @property
    def is_taken(self) -> bool:
        """Whether nothing is left to take."""
        return self._next >= len(self.entries)

    def deliver(self, place: int, vector: torch.Tensor, tokens: int) -> bool:
        """Keeps an input's vector; whether it was the last one, with which the request is answered."""
        self._vectors[place] = vector
        self.tokens += tokens
        if len(self._vectors) < len(self.entries) or self.ended:
            return False
        vectors = torch.stack([self._vectors[index] for index in range(len(self.entries))])
        self._end(Answer(vectors, self.tokens))
        return True

    def fail(self, error: Exception) -> None:
        """Ends the request with an error."""
        if not self.ended:
            self._end(error)

    def _end(self, result: Answer | Exception) -> None:
        self.ended = True

        def tell() -> None:
            if self.future.done():  # whoever waited has gone
                return
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        self.loop.call_soon_threadsafe(tell)


@dataclass(frozen=True, eq=False)
class Ready:
    """A row of a job.

    Attributes:
        job: Whose it is.
        place: Of its input in the job.
        row: For the model.
    """

    job: Job
    place: int
    row: Row


class Turns:
    """Jobs in a circle; not safe for threads by itself."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __bool__(self) -> bool:
        self._drop_ended()
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        """At the end of the line."""
        self._jobs.append(job)

    def take(self) -> tuple[Job, list[int]]:
        """The next job's next inputs; the job goes to the end of the line, if it has more."""
        self._drop_ended()
        job = self._jobs.popleft()
        places = job.take()
        if not job.is_taken:
            self._jobs.append(job)
        return job, places

    def _drop_ended(self) -> None:
        while self._jobs and self._jobs[0].ended:
            self._jobs.popleft()


class Pool:
    """Rows that are ready to be encoded, each with its job and its place there; not safe for threads by itself."""

    def __init__(self) -> None:
        self._rows: list[Ready] = []
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, ready: Ready) -> None:
        """Puts a row in."""
        self._rows.append(ready)
        self.tokens += len(ready.row)

    def take(self, max_tokens: int, mixed_tokens: int = 0) -> list[Ready]:
        """A batch: the row that has waited longest, and those like it in length; empty where all were dropped.

        Args:
            max_tokens: Of the batch, padding included; a longer row is a batch of its own.
            mixed_tokens: Of a batch that may hold texts of any lengths, as it needs no padding.
        """
        self._rows = [ready for ready in self._rows if not ready.job.ended]
        batch: list[Ready] = []
        waiting = sum(len(ready.row) for ready in self._rows)
        # Where more wait, rows alike are many enough to make a batch, which needs no mask.
        mixed = min(mixed_tokens if waiting <= mixed_tokens else mixed_tokens // 2, max_tokens)
        if self._rows:
            oldest, longest, tokens, texts = len(self._rows[0].row), 0, 0, True
            for ready in sorted(self._rows, key=lambda ready: abs(len(ready.row) - oldest)):
                width, held = max(longest, len(ready.row)), tokens + len(ready.row)
                padded = width * (len(batch) + 1)
                padding = max(PADDING * held, COST_OF_A_BATCH * max_tokens)
                texts = texts and not ready.row.others
                is_mixed = texts and held <= mixed
                if batch and not is_mixed and (padded > max_tokens or padded - held > padding):
                    break
                batch.append(ready)
                longest, tokens = width, held
            taken = set(map(id, batch))
            self._rows = [ready for ready in self._rows if id(ready) not in taken]
        self.tokens = sum(len(ready.row) for ready in self._rows)
        return batch
