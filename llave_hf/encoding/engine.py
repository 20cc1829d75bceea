"""Vectors of a list of inputs: each distinct one once, prepared ahead in threads, in batches of like length.

inputs -> [`ContentKeys`] distinct ones -> [`prefetch`] rows -> [`TokenBudget`] batches -> [`LeanDecoding`] vectors.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from llave_hf.model.media_llave import MediaError

from .content_keys import ContentKeys
from .failures import NOT_FINITE, Failures
from .lean_decoding import LeanDecoding
from .meter import Meter
from .plan import TokenBudget, estimate_tokens
from .prefetch import prefetch
from .rows import Features, Row, join_rows, split_rows

TEXTS_PER_CALL = 256  # of the tokenizer, which works on a list in threads of its own
CPU_MAX_TOKENS = 1024
GPU_MAX_TOKENS = 16384
MAX_WORKERS = 8
ROWS_AHEAD = 4  # prepared pictures or videos that wait, a thread
UNLIMITED_ROWS = 1 << 30
# What an input that cannot be used makes libraries raise, PyTorch's own errors (RuntimeError) apart.
INPUT_ERRORS = (
    *(ValueError, TypeError, OSError, AttributeError, LookupError, ArithmeticError),
    *(AssertionError, EOFError, SyntaxError, struct.error),
)


@dataclass(frozen=True)
class EncodingOptions:
    """How a list is encoded; none of it changes a vector.

    Attributes:
        max_tokens: Of a batch, padding included; a longer input is a batch of its own. None: by the device.
        max_rows: Of a batch.
        num_workers: Threads that open and prepare pictures and videos; None: one a core, at most eight.
        show_progress_bar: With rate and remaining time.
    """

    max_tokens: int | None = None
    max_rows: int = UNLIMITED_ROWS
    num_workers: int | None = None
    show_progress_bar: bool = False


@dataclass(frozen=True)
class EncodingEngine:
    """What it takes to embed a list.

    Attributes:
        model: The [`LlaveModel`] behind `forward`.
        processor: The model's own.
        preprocess: Inputs to the processor's output; is called from several threads.
        forward: A batch, on the CPU, to vectors `(B, D)`.
        is_text: Whether an input is a text, so that many may share a call of `preprocess`.
        leaves_out: Whether [`LeanDecoding`] leaves out what no embedding needs.
    """

    model: PreTrainedModel
    processor: Any
    preprocess: Callable[[list[Any]], Mapping[str, Any]]
    forward: Callable[[Features], torch.Tensor]
    is_text: Callable[[Any], bool]
    leaves_out: bool = True

    @torch.inference_mode()
    def encode(
        self,
        inputs: Sequence[Any],
        options: EncodingOptions,
        failures: Failures | None = None,
        meter: Meter | None = None,
    ) -> list[torch.Tensor]:
        """One vector `(D,)` an input, in order.

        Args:
            inputs: As `preprocess` takes them.
            options: How.
            failures: Is given the inputs that cannot be used, each place with its reason; they have no vector in what
                is returned. So are those whose vector is not finite. None: the first input that cannot be used is
                raised, and vectors are returned as the model gives them.
            meter: Is told what it took.

        Raises:
            ValueError: An input cannot be used; the message begins with its place in the list. [`MediaError`], which
                is one, where it is a picture or video.
        """
        max_tokens = self._default_tokens() if options.max_tokens is None else options.max_tokens
        budget: TokenBudget[Row] = TokenBudget(max_tokens, options.max_rows)
        places = distinct_places(inputs)
        bad: Failures | None = None if failures is None else {}  # by first place
        vectors: dict[int, torch.Tensor] = {}
        bar = tqdm(total=len(inputs), desc="Encoding", unit="input", disable=not options.show_progress_bar)
        leaving_out = LeanDecoding(self.model, self.forward, self._pad_token_id) if self.leaves_out else None
        with bar, leaving_out or contextlib.nullcontext() as lean:
            texts = self._text_rows(inputs, self._texts(inputs, places, bad), bad)
            usable = [index for index in places if index not in (bad or ())]
            lengths = self._lengths(inputs, usable, texts)
            rows = self._all_rows(inputs, lengths, texts, options.num_workers, bad, meter or Meter())
            with contextlib.closing(rows):
                for number, batch in enumerate(budget.batches((len(row), row) for row in rows)):
                    if number == 0 and lean is not None:
                        known = [row.tokens["input_ids"] for row in (*texts.values(), *batch)]
                        lean.expect(known, num_tokens=sum(lengths.values()))
                    made = self._plain(batch) if lean is None else lean.run(batch)
                    finite = [True] * len(batch) if bad is None else made.isfinite().all(1).tolist()
                    for row, vector, is_finite in zip(batch, made, finite, strict=True):
                        if is_finite:
                            vectors |= dict.fromkeys(places[row.index], vector)
                            bar.update(len(places[row.index]))
                        else:
                            _note(ValueError(NOT_FINITE), row.index, bad)
            bar.update(sum(len(places[index]) for index in bad or ()))
        for index, error in (bad or {}).items():
            for place in places[index]:
                own = error if place == index else self._own_error(inputs, place, error)
                failures[place] = _naming(own, place)  # type: ignore[index]
        return [vectors[place] for place in sorted(vectors)]

    def _own_error(self, inputs: Sequence[Any], place: int, error: ValueError) -> ValueError:
        """What is said of an input with the content of one that cannot be used: another file has another name."""
        own: Failures = {}
        self._prepare(inputs, [place], own)
        return own.get(place, error)

    def _plain(self, rows: Sequence[Row]) -> torch.Tensor:
        return self.forward(join_rows(rows, self._pad_token_id))

    def _lengths(self, inputs: Sequence[Any], indices: Iterable[int], texts: Mapping[int, Row]) -> dict[int, int]:
        """Tokens of each distinct input; of pictures and videos an estimate."""
        return {
            index: len(texts[index]) if index in texts else estimate_tokens(inputs[index], self.processor)
            for index in indices
        }

    def _all_rows(
        self,
        inputs: Sequence[Any],
        lengths: Mapping[int, int],
        texts: Mapping[int, Row],
        num_workers: int | None,
        bad: Failures | None,
        meter: Meter,
    ) -> Generator[Row, None, None]:
        """The rows of all distinct inputs, the longest first; pictures and videos are prepared ahead."""
        order = sorted(lengths, key=lambda index: -lengths[index])
        workers = default_workers() if num_workers is None else num_workers
        media = (index for index in order if index not in texts)
        prepared = prefetch(
            lambda index: self._prepare(inputs, [index], bad), media, num_workers=workers, window=ROWS_AHEAD * workers
        )
        with contextlib.closing(prepared):
            for index in order:
                began = time.perf_counter()
                rows = [texts[index]] if index in texts else next(prepared)
                meter.waited += time.perf_counter() - began
                meter.tokens += sum(map(len, rows))
                yield from rows

    def _text_rows(self, inputs: Sequence[Any], indices: list[int], bad: Failures | None) -> dict[int, Row]:
        starts = range(0, len(indices), TEXTS_PER_CALL)
        chunks = (self._prepare(inputs, indices[start : start + TEXTS_PER_CALL], bad) for start in starts)
        return {row.index: row for chunk in chunks for row in chunk}

    def _prepare(self, inputs: Sequence[Any], indices: list[int], bad: Failures | None) -> list[Row]:
        """The rows of those that can be used."""
        try:
            return split_rows(self.preprocess([inputs[index] for index in indices]), indices)
        except INPUT_ERRORS as error:
            if len(indices) > 1:  # which one is it?
                return [row for index in indices for row in self._prepare(inputs, [index], bad)]
            _note(error, indices[0], bad)
            return []

    def _texts(self, inputs: Sequence[Any], indices: Iterable[int], bad: Failures | None) -> list[int]:
        texts = []
        for index in indices:
            try:
                if self.is_text(inputs[index]):
                    texts.append(index)
            except INPUT_ERRORS as error:
                _note(error, index, bad)
        return texts

    def _default_tokens(self) -> int:
        return CPU_MAX_TOKENS if self.model.device.type == "cpu" else GPU_MAX_TOKENS

    @property
    def _pad_token_id(self) -> int:
        return self.processor.tokenizer.pad_token_id or 0


def distinct_places(inputs: Sequence[Any]) -> dict[int, list[int]]:
    """The first place of each distinct input, and all its places."""
    keys = ContentKeys()
    first: dict[Hashable, int] = {}
    places: dict[int, list[int]] = {}
    for place, entry in enumerate(inputs):
        places.setdefault(first.setdefault(keys.key(entry), place), []).append(place)
    return places


def _note(error: Exception, index: int, bad: Failures | None) -> None:
    """Keeps what is wrong with an input, or raises it."""
    if bad is None:
        raise _naming(error, index) from error
    bad[index] = error if isinstance(error, ValueError) else ValueError(reason_of(error))


def _naming(error: Exception, index: int) -> ValueError:
    return (MediaError if isinstance(error, MediaError) else ValueError)(f"input {index}: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """In one line; what is no ValueError says little without its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"


def default_workers() -> int:
    """One thread a core that this process may use, at most `MAX_WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)
