"""Requests that wait: each takes its turn with a few inputs, so that a long list does not keep a short one waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .inputs import Input

TEXTS_PER_TURN = 32  # that share a call of the tokenizer


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
