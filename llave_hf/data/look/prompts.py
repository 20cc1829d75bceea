"""Samples as the model gets them: the prompt around a text, with what stands for its pictures."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llave_hf.data.media import load_sample
from llave_hf.data.samples import Sample
from llave_hf.model.prompt_llave import PromptStyle

if TYPE_CHECKING:
    from llave_hf.model.processing_llave import LlaveProcessor

_TURN = "<|im_start|>"
_TOKENS = re.compile(r"(<\|[a-z_]+\|>|<image>|<video>)")


@dataclass(frozen=True)
class Piece:
    """A part of a prompt.

    Attributes:
        kind: `"text"`, the sample's own; `"frame"`, what stands around it; `"token"`, a special token of the frame;
            `"mark"`, which stands for a picture or a video.
        times: How often a mark's token stands there in a row; 0: it is not known without the model's processor.
    """

    kind: str
    text: str
    times: int = 1


@dataclass(frozen=True)
class Prompt:
    """A sample as the model gets it.

    Attributes:
        tokens: How many, visual ones too; None: without the model's processor that is not known.
        lost: How many tokens of its text are over the model's length and left out.
    """

    pieces: tuple[Piece, ...]
    tokens: int | None = None
    lost: int = 0

    def __str__(self) -> str:
        return "".join(f"{p.text} x {p.times:,}" if p.kind == "mark" and p.times > 1 else p.text for p in self.pieces)


class DefaultPrompts:
    """LLaVE's own prompt as a string: there is no tokenizer, so nothing is counted.

    Args:
        style: How the backbone's prompt is written.
    """

    origin = "LLaVE's default prompt; --model FOLDER shows a model's own, and counts its tokens"

    def __init__(self, style: PromptStyle | None = None) -> None:
        self.style = style or PromptStyle()

    def of(self, sample: Sample) -> Prompt:
        """The prompt of a sample, whose media are not opened."""
        from transformers.utils.chat_template_utils import render_jinja_template

        content: list[dict[str, Any]] = [{"type": "image"} for _ in sample.images]
        content += [{"type": "video"}] * (sample.video is not None) + [{"type": "text", "text": sample.text}]
        rendered = render_jinja_template(
            [[{"role": "user", "content": content}]], chat_template=self.style.chat_template
        )
        whole = rendered[0][0]
        text = sample.text.strip() if self.style.trim else sample.text
        start = whole.rindex("<|im_end|>\n<|im_start|>assistant") - len(text)
        marks = (self.style.image_mark, self.style.video_mark)
        pieces = [*_framed(whole[:start], marks), Piece("text", text), *_framed(whole[start + len(text) :], marks)]
        return Prompt(tuple(piece for piece in pieces if piece.text))


class ModelPrompts:
    """Prompts as token ids, by a model's own processor."""

    def __init__(self, processor: LlaveProcessor, name: str) -> None:
        self.processor = processor
        self.origin = f"the prompt of {name}, as its processor makes it"
        tokenizer = processor.tokenizer
        self._special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}

    def of(self, sample: Sample) -> Prompt:
        """The prompt of a sample.

        Raises:
            MediaError: One of its files cannot be used.
            ValueError: Its pictures alone are longer than the model's length.
        """
        loaded = load_sample(sample, self.processor.num_frames, self.processor.max_frames)
        with _truncations() as lost:
            (made,) = self.processor.unpadded(
                [loaded["text"]], [loaded.get("images")], [loaded.get("video")], as_bytes=True
            )
        ids = made["input_ids"].tolist()
        return Prompt(tuple(self._pieces(ids)), len(ids), sum(lost))

    def _pieces(self, ids: Sequence[int]) -> Iterator[Piece]:
        marks = (self.processor.image_token_id, self.processor.video_token_id)
        opened, inside = 0, False  # turns so far; whether one is open
        user = sum(self._special.get(number) == _TURN for number in ids) - 1  # the last is the empty answer
        for number, run in groupby(ids, lambda number: number if number in self._special else None):
            tokens = list(run)
            if number is None:
                text = self.processor.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
                yield from _turn(text, user=inside and opened == user)
            elif number in marks:
                yield Piece("mark", self._special[number], len(tokens))
            else:
                inside = self._special[number] == _TURN
                opened += inside
                yield Piece("token", self._special[number] * len(tokens))


def _turn(text: str, *, user: bool) -> Iterator[Piece]:
    if not user:
        yield Piece("frame", text)
        return
    if text.startswith("user\n"):
        yield Piece("frame", "user\n")
        text = text.removeprefix("user\n")
    if text:
        yield Piece("text", text)


def _framed(text: str, marks: Sequence[str]) -> Iterator[Piece]:
    for piece in _TOKENS.split(text):
        if piece in marks:
            yield Piece("mark", piece, 0)
        else:
            yield Piece("token" if _TOKENS.fullmatch(piece) else "frame", piece)


@contextmanager
def _truncations() -> Iterator[list[int]]:
    """Collects how many tokens the processor says it left out, instead of logging each."""
    from llave_hf.model import processing_llave

    lost: list[int] = []
    pattern = re.compile(r"the last (\d+) tokens")

    def collect(record: logging.LogRecord) -> bool:
        found = pattern.search(record.getMessage())
        if found:
            lost.append(int(found.group(1)))
        return found is None

    logger = logging.getLogger(processing_llave.__name__)
    logger.addFilter(collect)
    try:
        yield lost
    finally:
        logger.removeFilter(collect)
