"""The schema of `/v1/embeddings`: OpenAI's fields, chat messages as vLLM takes them, and the model's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from .answers import RequestError

_SHOWN = 3  # faults of a request that are told
_KINDS = ("text", "image_url", "video_url")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _as_address(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_texts(value: Any) -> Any:
    """A list of texts; whatever else OpenAI's clients and others send is told apart."""
    if value is None or isinstance(value, str):
        return value if value is None else [value]
    if not isinstance(value, list):
        raise ValueError("it is neither a string nor a list of strings")
    if not value:
        raise ValueError("it is empty; give at least one text")
    for place, entry in enumerate(value):
        if isinstance(entry, (int, list)) and not isinstance(entry, bool):
            raise ValueError(
                "it holds token ids, which this server does not take: the model's prompt is put around "
                "a text before it is tokenized. Send the text itself (LangChain: "
                "check_embedding_ctx_length=False)"
            )
        if isinstance(entry, dict):
            raise ValueError(f"entry {place} is an object; pictures and videos go into `messages`")
        if not isinstance(entry, str):
            raise ValueError(f"entry {place} is no string")
    return value


class Address(_Part):
    """A picture or clip: a data URI, or an address where the server may fetch."""

    url: str
    detail: Literal["auto"] | None = Field(None, description="accepted as OpenAI's clients send it")


class TextPart(_Part):
    """A text."""

    type: Literal["text"]
    text: str


class PicturePart(_Part):
    """A picture."""

    type: Literal["image_url"]
    image_url: Annotated[Address, BeforeValidator(_as_address)]


class ClipPart(_Part):
    """A video, or an animated picture whose frames are meant."""

    type: Literal["video_url"]
    video_url: Annotated[Address, BeforeValidator(_as_address)]


Part = Annotated[TextPart | PicturePart | ClipPart, Field(discriminator="type")]


class Message(_Part):
    """A system message is an instruction: it stands after the pictures and before the user's text."""

    role: Literal["system", "user"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)]


class EmbeddingRequest(_Part):
    """One of `input` (several texts, a vector each) and `messages` (one conversation, one vector)."""

    model: str | None = Field(None, description="as /v1/models names it")
    input: Annotated[
        list[str] | None,
        BeforeValidator(_as_texts),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = None
    messages: list[Message] | None = None
    dimensions: int | None = Field(
        None, ge=1, le=1_000_000, description="the first so many numbers of the vector, normalised again"
    )
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: of float32, little endian")
    input_type: str | None = Field(None, description="another name of `prompt_name`")
    prompt_name: str | None = Field(None, description="one of the model's prompts, put before the text")
    user: str | None = Field(None, description="accepted and not used")

    @property
    def prompt(self) -> str | None:
        """The name of the prompt that is asked for."""
        return self.input_type if self.prompt_name is None else self.prompt_name


def read_request(body: bytes) -> EmbeddingRequest:
    """A request from its JSON.

    Raises:
        RequestError: It is no JSON, or has other fields or types.
    """
    try:
        request = EmbeddingRequest.model_validate_json(body)
    except ValidationError as error:
        raise _told(error) from None
    if (request.input is None) == (request.messages is None):
        found = "neither `input` nor `messages`" if request.input is None else "both `input` and `messages`"
        raise RequestError(f"the request has {found}; send one of them.", param="input")
    if None not in (request.input_type, request.prompt_name) and request.input_type != request.prompt_name:
        raise RequestError("`input_type` and `prompt_name` differ, and mean the same; send one.", param="prompt_name")
    return request


def _told(error: ValidationError) -> RequestError:
    faults = error.errors(include_url=False, include_input=False, include_context=True)
    first = faults[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body is no JSON: {_reason(first)}.", code="invalid_json")
    if not first["loc"]:
        return RequestError('the body is no JSON object; send {"model": …, "input": …}.')
    more = f" ({len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
    message = "; ".join(_fault(fault) for fault in faults[:_SHOWN]) + more
    return RequestError(f"{message}.", param=str(first["loc"][0])[:64])


def _fault(fault: Mapping[str, Any]) -> str:
    where = ""
    for before, name in zip((None, *fault["loc"]), fault["loc"], strict=False):
        if isinstance(before, int) and name in _KINDS:  # pydantic's: which member of the union was tried
            continue
        where += f"[{name}]" if isinstance(name, int) else f".{str(name)[:64]}" if where else str(name)[:64]
    if fault["type"] == "extra_forbidden":
        return f"`{where}` is a field that this server does not know; leave it out"
    return f"`{where}`: {_reason(fault)}"


def _reason(fault: Mapping[str, Any]) -> str:
    return str(fault["msg"]).removeprefix("Value error, ").removeprefix("Invalid JSON: ")[:300]
