"""The forms of request in which servers take inputs: which inputs each carries, how, and how it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .answers import cohere_vectors, openai_vectors
from .probes import Probe

OPENAI, COHERE = "/v1/embeddings", "/v2/embed"


@dataclass(frozen=True)
class Form:
    """A form of request.

    Attributes:
        name: For tables and `--forms`.
        path: Where it is sent.
        what: In words.
        carries: Whether it can hold a probe.
        body: From probes that it carries, and the name of a prompt that is empty, to the request without `model`.
        vectors: From the answer and the number of inputs to `(n, D)`.
        together: All inputs go into one request; else one a request.
    """

    name: str
    path: str
    what: str
    carries: Callable[[Probe], bool]
    body: Callable[[Sequence[Probe], str | None], dict[str, Any]]
    vectors: Callable[[Any, int], np.ndarray]
    together: bool = False


def _is_text(probe: Probe) -> bool:
    return not probe.has_media


def _is_plain(probe: Probe) -> bool:
    return probe.kind in ("text", "marks")


def _is_short(probe: Probe) -> bool:
    return probe.kind == "text"


def _is_anything(_: Probe) -> bool:
    return True


def _is_no_clip(probe: Probe) -> bool:
    return probe.clip is None


def _is_one_picture(probe: Probe) -> bool:
    return len(probe.pictures) == 1 and not probe.text


def _input(probes: Sequence[Probe], _: str | None) -> dict[str, Any]:
    (probe,) = probes
    named = {"input_type": probe.instruction} if probe.instruction else {}
    return {"input": probe.text, **_options(probe), **named}


def _input_list(probes: Sequence[Probe], _: str | None) -> dict[str, Any]:
    return {"input": [probe.text for probe in probes], "encoding_format": "float"}


def _input_base64(probes: Sequence[Probe], _: str | None) -> dict[str, Any]:
    return {"input": probes[0].text, "encoding_format": "base64"}


def _messages(probes: Sequence[Probe], _: str | None) -> dict[str, Any]:
    (probe,) = probes
    system = [{"role": "system", "content": probe.prompt}] if probe.prompt else []
    return {"messages": [*system, {"role": "user", "content": _parts(probe)}], **_options(probe)}


def _parts(probe: Probe) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": picture.uri}} for picture in probe.pictures
    ]
    if probe.clip is not None:
        parts.append({"type": "video_url", "video_url": {"url": probe.clip.uri}})
    return [*parts, {"type": "text", "text": probe.text}] if probe.text else parts


def _options(probe: Probe) -> dict[str, Any]:
    options: dict[str, Any] = {"encoding_format": "float"}
    return options if probe.dimensions is None else {**options, "dimensions": probe.dimensions}


def _cohere_texts(probes: Sequence[Probe], _: str | None) -> dict[str, Any]:
    return _cohere({"texts": [probes[0].text]}, probes[0], None)


def _cohere_typed_texts(probes: Sequence[Probe], prompt: str | None) -> dict[str, Any]:
    return _cohere({"texts": [probes[0].text]}, probes[0], prompt)


def _cohere_inputs(probes: Sequence[Probe], _: str | None) -> dict[str, Any]:
    return _cohere({"inputs": [{"content": _parts(probes[0])}]}, probes[0], None)


def _cohere_images(probes: Sequence[Probe], _: str | None) -> dict[str, Any]:
    return _cohere({"images": [probes[0].pictures[0].uri]}, probes[0], None)


def _cohere(inputs: Mapping[str, Any], probe: Probe, prompt: str | None) -> dict[str, Any]:
    body = {**inputs, "embedding_types": ["float"]}
    named = probe.instruction or prompt
    if named is not None:
        body["input_type"] = named
    return body if probe.dimensions is None else {**body, "output_dimension": probe.dimensions}


_ALL = (
    Form("input", OPENAI, "OpenAI's `input`, a text", _is_text, _input, openai_vectors),
    Form("input-list", OPENAI, "OpenAI's `input`, texts", _is_plain, _input_list, openai_vectors, together=True),
    Form("input-base64", OPENAI, "OpenAI's `input`, in base64", _is_short, _input_base64, openai_vectors),
    Form("messages", OPENAI, "chat `messages`", _is_anything, _messages, openai_vectors),
    Form("v2-texts", COHERE, "Cohere's `texts`", _is_text, _cohere_texts, cohere_vectors),
    Form("v2-texts-typed", COHERE, "`texts` with `input_type`", _is_text, _cohere_typed_texts, cohere_vectors),
    Form("v2-inputs", COHERE, "Cohere's `inputs`", _is_no_clip, _cohere_inputs, cohere_vectors),
    Form("v2-images", COHERE, "Cohere's `images`", _is_one_picture, _cohere_images, cohere_vectors),
)
FORMS = {form.name: form for form in _ALL}
