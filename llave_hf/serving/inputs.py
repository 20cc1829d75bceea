"""From a request to what the model is given: texts with their prompt, and pictures and clips as bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from llave_hf.model.media_llave import MediaError
from llave_hf.model.media_pictures_llave import Medium, is_data_uri, medium_of

from .answers import RequestError
from .limits import Limits
from .requests import ClipPart, EmbeddingRequest, Message, PicturePart, TextPart

Fetch = Callable[[str], Awaitable[bytes]]  # raises MediaError
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Input:
    """One input, opened so far that nothing but its bytes is needed.

    Attributes:
        text: With the prompt before it.
        pictures: Before the text, in their order.
        clip: None, or one; behind the pictures.
        name: For messages.
    """

    text: str
    pictures: list[Medium] = field(default_factory=list)
    clip: Medium | None = None
    name: str = "input"

    @property
    def is_text(self) -> bool:
        """Whether it has neither a picture nor a clip."""
        return not self.pictures and self.clip is None

    @property
    def kind(self) -> str:
        """For metrics: `text`, `image` or `video`."""
        return "video" if self.clip is not None else "image" if self.pictures else "text"


def prompt_of(request: EmbeddingRequest, prompts: Mapping[str, str], default: str | None) -> str:
    """The text of the prompt that a request names; of the model's default prompt where it names none.

    Raises:
        RequestError: The model has no prompt of that name.
    """
    if request.prompt is None:
        return prompts.get(default or "", "") or ""
    if request.prompt not in prompts:
        named = ", ".join(prompts) or "none"
        which = "input_type" if request.prompt_name is None else "prompt_name"
        raise RequestError(f"`{which}` is {request.prompt[:64]!r}; this model's prompts are: {named}.", param=which)
    return prompts[request.prompt] or ""


async def read_inputs(request: EmbeddingRequest, prompt: str, limits: Limits, fetch: Fetch | None) -> list[Input]:
    """The inputs of a request.

    Args:
        request: As it was sent.
        prompt: Put before each text.
        limits: Of how many there may be.
        fetch: Gets what lies at an address; None: addresses are refused.

    Raises:
        RequestError: There are too many, or a picture or clip cannot be had.
    """
    if request.input is not None:
        if len(request.input) > limits.inputs:
            raise RequestError(
                f"`input` has {len(request.input)} entries; at most {limits.inputs} a request.", param="input"
            )
        return [Input(prompt + text, name=f"`input[{place}]`") for place, text in enumerate(request.input)]
    return [await _read_conversation(request.messages or [], prompt, limits, fetch)]


async def _read_conversation(messages: list[Message], prompt: str, limits: Limits, fetch: Fetch | None) -> Input:
    parts = [
        (f"`messages[{number}].content[{place}]`", part)
        for number, message in enumerate(messages)
        for place, part in enumerate(message.content)
    ]
    pictures = [(where, part.image_url.url) for where, part in parts if isinstance(part, PicturePart)]
    clips = [(where, part.video_url.url) for where, part in parts if isinstance(part, ClipPart)]
    if not parts:
        raise RequestError("`messages` hold nothing to embed; give a text or a picture.", param="messages")
    if len(pictures) > limits.pictures:
        raise RequestError(f"`messages` hold {len(pictures)} pictures; at most {limits.pictures}.", param="messages")
    if len(clips) > 1:
        raise RequestError(f"`messages` hold {len(clips)} videos; an input takes one.", param="messages")
    opened = [await _open(where, address, fetch) for where, address in (*pictures, *clips)]
    text = prompt + "".join(part.text for _, part in parts if isinstance(part, TextPart))
    return Input(text, opened[: len(pictures)], opened[-1] if clips else None, "`messages`")


async def _open(where: str, address: str, fetch: Fetch | None) -> Medium:
    try:
        if _ADDRESS.match(address):
            if fetch is None:
                raise MediaError(
                    "is an address, and this server fetches none (it was started without --allow_fetch); send the "
                    "bytes as a data URI, data:image/png;base64,…"
                )
            return Medium(where, content=await fetch(address))
        # In a thread, as of tens of megabytes it keeps everybody else waiting.
        medium = await asyncio.to_thread(medium_of, address) if is_data_uri(address) else None
    except MediaError as error:
        raise RequestError(f"{where} {error}", param="messages") from error
    if medium is None:
        raise RequestError(
            f"{where} is neither a data URI (data:image/png;base64,…) nor an address (https://…).", param="messages"
        )
    if not medium.content:
        raise RequestError(f"{where} is a data URI without data.", param="messages")
    return Medium(where, content=medium.content)
