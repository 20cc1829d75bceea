"""Chooses what stands before an input of mteb's: a prompt of the model's or the caller's, or MMEB's instruction."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
from mteb.types import PromptType

from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.prompts import PLACE, default_prompts
from llave_hf.errors import UserError
from llave_hf.model.sentence_transformer_layout_llave import PROMPTS


class Instruction(NamedTuple):
    """What one call of `encode` puts around its inputs.

    Attributes:
        prompt: Stands before every text; a picture's or video's is this alone. "" is none.
        templates: By the modalities of an input (`image`, `image text`, …), with a place for its text.
    """

    prompt: str = ""
    templates: Mapping[str, str] = {}

    def apply(self, entry: Mapping[str, Any], *, with_prompt: bool) -> str | dict[str, Any]:
        """The input with its template, and with the prompt where `encode` cannot be given it."""
        kind = " ".join(name for name in ("image", "video", "text") if name in entry)
        text = self.templates.get(kind, PLACE).replace(PLACE, entry.get("text", ""))
        if with_prompt:
            text = self.prompt + text
        media = {name: value for name, value in entry.items() if name != "text"}
        if not media:
            return text
        return {**media, "text": text} if text else media


class Prompts:
    """Chooses the instruction of a task and a role (query, document, or neither).

    The first that there is: a prompt by mteb's rule (`TASK-query`, `TASK`, `TYPE-query`, `TYPE`, `query`; likewise
    `document`) that is not empty; the encoder's default prompt; MMEB's instructions, if the encoder names them among
    its prompts, as LLaVE's do.

    Args:
        encoder: Its `prompts` and `default_prompt_name` count where `chosen` is None.
        chosen: The only prompts, without instructions; an empty mapping is none at all.

    Raises:
        UserError: A name in `chosen` is no name of mteb's.
    """

    def __init__(self, encoder: Any, chosen: Mapping[str, str] | None = None) -> None:
        own = getattr(encoder, "prompts", PROMPTS if isinstance(encoder, LlaveEncoder) else None) or {}
        self._default = ""
        self._instructions: Mapping[str, str] = {}
        if chosen is None:
            chosen = {name: prompt for name, prompt in own.items() if prompt}
            self._default = chosen.get(getattr(encoder, "default_prompt_name", None) or "", "")
            self._instructions = default_prompts(encoder) if "retrieval_query" in own else {}
        else:
            _check_names(chosen)
        self._named = dict(chosen)

    def instruction(self, task: TaskMetadata, role: PromptType | None) -> Instruction:
        """What is put around the inputs of a task in a role."""
        name = get_prompt_name(self._named, task, role)
        prompt = self._named[name] if name else self._default
        if prompt or not self._instructions:
            return Instruction(prompt)
        return Instruction(templates=_templates(self._instructions, task, role))

    @property
    def used(self) -> bool:
        """Whether any input gets more than it brings."""
        return bool(self._named or self._instructions)


def _templates(instructions: Mapping[str, str], task: TaskMetadata, role: PromptType | None) -> dict[str, str]:
    """MMEB's instructions: those of search, but for what only mteb's metadata tells.

    Queries for texts get MMEB's instructions for captions and questions; pictures of a classification its own.
    """
    picture, video = instructions["image"], instructions["video"]
    if role == PromptType.query:
        if set(task.get_modalities(PromptType.document)) == {"text"}:
            return {
                "image": PROMPTS["caption_query"],
                "image text": PROMPTS["vqa_query"] + PLACE + "\n",
                "video": video,
            }
        return {
            "text": instructions["query"],
            "image": instructions["image_query"],
            "image text": instructions["image_text_query"],
            "video": video,
        }
    if role is None and task.simplified_task_type == "classification":
        picture = PROMPTS["classification_query"]
    return {"text": instructions["text"], "image": picture, "video": video}


def _check_names(prompts: Mapping[str, str]) -> None:
    with warnings.catch_warnings(action="ignore"):
        known, _ = AbsEncoder.validate_task_to_prompt_name(dict(prompts), raise_for_invalid_keys=False)
    if unknown := sorted(set(prompts) - set(known or ())):
        raise UserError(
            f"prompts: mteb knows no task, task type or role {', '.join(map(repr, unknown))}. A name is query, "
            "document, a task's (CIRRIT2IRetrieval) or a type's (Retrieval), these two also with -query or -document."
        )
