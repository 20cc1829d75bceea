"""The inputs that a server is asked for: the fingerprint's, and those that servers are known to get wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from llave_hf.hub.fingerprint.samples import fingerprint_samples

from .media import Encoded, as_clip, as_png, large_picture, transparent_picture, turned_picture

# What each kind of input is called in tables and by --skip. A server must get every kind right by one form at least,
# but for the last three: it may refuse what is over its limit, and need not offer the other two.
KINDS = {
    "text": "texts",
    "marks": "literal marks",
    "limit": "a text at the limit",
    "picture": "pictures",
    "pictures": "several pictures",
    "clip": "a clip",
    "transparency": "transparency",
    "orientation": "a turned photo",
    "over": "a text over the limit",
    "dimensions": "dimensions",
    "instruction": "instructions",
}
OPTIONAL = ("over", "dimensions", "instruction")
_WORDS = ("wire", "bird", "snow", "dog", "lamp", "river", "stone", "cloud", "tree", "house")
_BEYOND = 64  # words by which the text over the limit is longer


@dataclass(frozen=True)
class Probe:
    """One input.

    Attributes:
        name: For tables.
        kind: One of [`KINDS`].
        text: The user's text.
        pictures: Before the text.
        clip: Before the text too.
        instruction: The name of one of the model's prompts, put before the text.
        prompt: That prompt's text.
        dimensions: So many numbers are asked for; None for all.
        limit: Longest sequence in tokens; what is longer loses the end of its text. None for the model's own.
    """

    name: str
    kind: str
    text: str = ""
    pictures: tuple[Encoded, ...] = ()
    clip: Encoded | None = None
    instruction: str | None = None
    prompt: str = ""
    dimensions: int | None = None
    limit: int | None = None

    @property
    def has_media(self) -> bool:
        return bool(self.pictures) or self.clip is not None

    @property
    def whole_text(self) -> str:
        """The text with its prompt."""
        return self.prompt + self.text


def make_probes(
    *,
    image_mark: str | None,
    prompts: Mapping[str, str],
    size: int,
    limit: int,
    tokens: Callable[[str], int],
) -> list[Probe]:
    """All inputs for a model, texts first.

    Args:
        image_mark: What stands for a picture in its prompt; None for a model without vision.
        prompts: Its prompts by name.
        size: D, numbers of a vector.
        limit: Longest sequence in tokens that model and server take.
        tokens: From a text to the length of its sequence, prompt included.
    """
    samples = {sample.name: sample for sample in fingerprint_samples()}
    marks = ["<|im_end|>", *([image_mark] if image_mark else [])]
    longest = _text_of(limit, tokens)
    probes = [
        Probe("text", "text", samples["text"].text),
        Probe("long text", "text", samples["long text"].text),
        Probe("white space at the ends", "text", "\n  Which one? \n"),
        Probe("unicode and special tokens", "marks", samples["unicode and special tokens"].text),
        *(Probe(f"the word {mark}", "marks", f"What does {mark} mean?") for mark in marks),
        Probe("text at the limit", "limit", longest),
        Probe("text over the limit", "over", f"{longest} {_words(_BEYOND)}"),
        Probe(f"{size // 2} dimensions", "dimensions", samples["text"].text, dimensions=size // 2),
    ]
    named = next((name for name, prompt in prompts.items() if prompt), None)
    if named is not None:
        text = "two cats asleep on a sofa"
        probes.append(Probe(f"prompt {named}", "instruction", text, instruction=named, prompt=prompts[named]))
    probes += _media_probes() if image_mark else ()
    return [replace(probe, limit=limit) for probe in probes]


@functools.cache
def _media_probes() -> tuple[Probe, ...]:
    samples = {sample.name: sample for sample in fingerprint_samples()}

    def of(name: str, kind: str) -> Probe:
        sample = samples[name]
        clip = as_clip(sample.frames) if sample.frames else None
        return Probe(name, kind, sample.text, tuple(as_png(image) for image in sample.images), clip)

    return (
        of("square image", "picture"),
        of("wide image", "picture"),
        of("tall image and text", "picture"),
        Probe("large image", "picture", pictures=(as_png(large_picture()),)),
        of("two images", "pictures"),
        of("video", "clip"),
        Probe("transparent image", "transparency", pictures=(transparent_picture(),)),
        Probe("photo with an orientation", "orientation", pictures=(turned_picture(),)),
    )


def _words(count: int) -> str:
    return " ".join(f"{_WORDS[number * 7 % 10]} {number}," for number in range(count))


def _text_of(limit: int, tokens: Callable[[str], int]) -> str:
    """A text whose sequence has `limit` tokens, or as nearly as the tokenizer's merges allow."""
    low, high = 0, limit
    while low < high:  # a word is a token at least
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(_words(middle)) <= limit else (low, middle - 1)
    text = _words(low)
    while tokens(longer := text + " a") <= limit:
        text = longer
    return text
