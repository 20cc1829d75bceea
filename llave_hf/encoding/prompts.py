"""Instructions around queries and documents, for search and for mteb's tasks: MMEB's, none, or the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from llave_hf.errors import UserError
from llave_hf.model.sentence_transformer_layout_llave import PROMPTS

PLACE = "{text}"
# MMEB's: what LLaVE's models were trained with. A picture that is asked with is embedded as pictures are stored, so
# that it finds itself with a score of 1.
_LLAVE = {
    "query": PROMPTS["retrieval_query"] + PLACE + "\n",
    "image_query": PROMPTS["retrieval_document"],
    "image_text_query": "Given an image, find a similar everyday image with the described changes: " + PLACE + "\n",
    "text": PLACE,
    "image": PROMPTS["retrieval_document"],
    "video": "Represent the given video.\n",
}
_PLAIN = {"query": PLACE, "image_query": "", "image_text_query": PLACE, "text": PLACE, "image": "", "video": ""}
NAMES = tuple(_LLAVE)


def default_prompts(encoder: Any) -> dict[str, str]:
    """MMEB's instructions where the model has them among its own, else none."""
    return dict(_LLAVE if "retrieval_query" in getattr(encoder, "prompts", PROMPTS) else _PLAIN)


def parse_prompts(settings: Iterable[str]) -> dict[str, str]:
    r"""`NAME=TEXT` pairs of a command line; `\n` in TEXT is a new line.

    Raises:
        UserError: A pair has another form, or NAME is none of `NAMES`.
    """
    pairs = [setting.partition("=") for setting in settings]
    return check_prompts({name: text.replace("\\n", "\n") if mark else None for name, mark, text in pairs})


def check_prompts(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """Prompts with a place for the text where there is a text: at the end where they name none.

    Raises:
        UserError: A name is none of `NAMES`, or has no text.
    """
    checked = {}
    for name, prompt in prompts.items():
        if name not in NAMES or prompt is None:
            raise UserError(f"a prompt is NAME=TEXT, with NAME one of {', '.join(NAMES)}; got {name!r}.")
        has_text = PLACE in _PLAIN[name]
        checked[name] = prompt + PLACE if has_text and PLACE not in prompt else prompt
    return checked


def query_input(prompts: Mapping[str, str], text: str | None, image: Image.Image | None) -> Any:
    """What `encode` is given for a query."""
    if image is None:
        return prompts["query"].replace(PLACE, text or "")
    prompt = prompts["image_text_query" if text else "image_query"]
    return _with_text({"image": image}, prompt, text)


def document_input(prompts: Mapping[str, str], kind: str, content: str) -> Any:
    """What `encode` is given for a document: `content` is a passage, or the path of a picture or video."""
    if kind == "text":
        return prompts["text"].replace(PLACE, content)
    return _with_text({kind: content}, prompts[kind], None)


def _with_text(entry: dict[str, Any], prompt: str, text: str | None) -> dict[str, Any]:
    content = prompt.replace(PLACE, text or "")
    return {**entry, "text": content} if content else entry
