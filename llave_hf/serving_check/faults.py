"""A known fault of servers: what it is called, what to do about it, and the sequence that it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from llave_hf.model.media_llave import Clip, load_clip
from llave_hf.model.media_pictures_llave import load_image, to_rgb

from .media import Encoded
from .probes import Probe
from .reference import NO_LIMIT, Reference, Row


@dataclass(frozen=True)
class Fault:
    """One way in which a server may go wrong with an input.

    Attributes:
        name: For the user; empty where the sequence is right, and only what is read off it may be wrong.
        advice: What to do.
        row: Makes the sequence.
        steps_back: Its name is left out where what is read off its sequence has a name.
    """

    name: str
    advice: str
    row: Callable[[], Row]
    steps_back: bool = False


@dataclass(frozen=True)
class Media:
    """A probe's pictures and clip as the model takes them: token ids of each, and tensors."""

    marks: list[list[int]]
    tensors: dict[str, Any]


def pictures_of(probe: Probe, open_one: Callable[[Encoded], Image.Image] | None = None) -> list[Image.Image]:
    """The pictures in RGB, opened as the processor does or in another way."""
    opened = open_one or (lambda picture: load_image(picture.content))
    return [to_rgb(opened(picture)) for picture in probe.pictures]


def clip_of(reference: Reference, probe: Probe) -> Clip | None:
    """The clip, sampled as the processor does."""
    if probe.clip is None:
        return None
    processor = reference.processor
    return load_clip(probe.clip.content, processor.num_frames, processor.max_frames, processor.sampling_fps)


def prepared(visual: Any, pictures: Sequence[Image.Image], clip: Clip | None) -> Media:
    """Pictures and a clip through what makes tensors of them, see [`Reference.visual`]."""
    tensors: dict[str, Any] = {}
    (of_pictures,) = visual.add_images(tensors, [list(pictures)])
    (of_clip,) = visual.add_videos(tensors, [clip])
    visual.normalise(tensors)
    return Media([*of_pictures, *of_clip], tensors)


def media_of(reference: Reference, probe: Probe) -> Media:
    """As the processor makes them."""
    return prepared(reference.visual(), pictures_of(probe), clip_of(reference, probe))


def with_prompt(reference: Reference, text: str, media: Media, limit: int | None = None, **configs: Any) -> Row:
    """A sequence with the right prompt around it.

    Args:
        reference: The model.
        text: The user's text with its instruction.
        media: Pictures and a clip; with them nothing is cut.
        limit: Longest sequence in tokens; what is longer loses the end of its text. None cuts nothing.
        **configs: Of the [`Row`].
    """
    longest = NO_LIMIT if limit is None or media.marks else limit
    rows, _ = reference.builder.build([text], [media.marks], longest)
    return Row(rows[0], media.tensors, **configs)
