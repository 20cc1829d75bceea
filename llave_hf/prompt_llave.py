"""LLaVE's prompt: from a sample's text and pictures to token ids, and from chat messages to samples.

Upstream: llava/conversation.py, `qwen_1_5`, with an empty assistant turn; the newline after that turn's
`<|im_end|>` is the pooled token. Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

# The same prompt for engines that render Jinja. Images come before text, and a system message (which is how
# sentence-transformers passes a prompt) is put before the user's text.
CHAT_TEMPLATE = """\
{%- set ns = namespace(text='', images='', videos='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- raise_exception('an embedding is made of system and user messages, never of an answer') -}}
{%- endif -%}
{%- if message['content'] is string -%}
{%- set ns.text = ns.text + message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] in ['image', 'image_url'] -%}
{%- set ns.images = ns.images + ('\\n' if ns.images else '') + '<image>' -%}
{%- elif part['type'] == 'video' -%}
{%- set ns.videos = ns.videos + ('\\n' if ns.videos else '') + '<video>' -%}
{%- else -%}
{%- set ns.text = ns.text + part['text'] -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- set marks = ns.images + ('\\n' if ns.images and ns.videos else '') + ns.videos -%}
{%- set glue = '\\n' if marks and ns.text and not ns.text.startswith('\\n') else '' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n<|im_start|>user\\n' -}}
{{- marks + glue + ns.text + '<|im_end|>\\n<|im_start|>assistant\\n\\n<|im_end|>\\n' -}}
"""


@dataclass
class ChatSample:
    """What one conversation asks to embed."""

    text: str = ""
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)


class PromptBuilder:
    """Token ids of the prompt around a sample.

    Args:
        tokenizer: Knows `<|im_start|>` and `<|im_end|>` as special tokens.

    User text is tokenised with `split_special_tokens`, so that a literal `<image>` or `<|im_end|>` in it is text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        start, end = (self._special(token) for token in ("<|im_start|>", "<|im_end|>"))
        newline = self._plain("\n")
        self.prefix = [start, *self._plain("system\nYou are a helpful assistant."), end, *newline, start]
        self.suffix = [end, *newline, start, *self._plain("assistant\n\n"), end, *newline]
        self._user, self._newline = self._plain("user\n"), newline

    def build(
        self, texts: Sequence[str], marks: Sequence[Sequence[list[int]]], max_length: int
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of each sample, and how many tokens of user text each lost to `max_length`.

        Args:
            texts: User texts.
            marks: For each sample, the placeholder ids of each of its pictures or videos.
            max_length: Longest sequence in tokens.

        Raises:
            ValueError: A sample's pictures and the prompt alone are longer than `max_length`.
        """
        # The words "user\n" and a text without pictures are one piece for the tokenizer: its merges may cross them.
        pieces = [
            _glued(text, bool(mark)) if mark else "user\n" + text for text, mark in zip(texts, marks, strict=True)
        ]
        tokenised = self.tokenizer(pieces, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows, lost = [], []
        for index, (mark, text_ids) in enumerate(zip(marks, tokenised, strict=True)):
            head = [*self.prefix, *self._joined(mark)]
            room = max_length - len(head) - len(self.suffix)
            least = 0 if mark else len(self._user)
            if room < least:
                raise ValueError(
                    f"row {index} of the batch takes {len(head) + len(self.suffix) + least} tokens before its text, "
                    f"over max_length {max_length}; raise max_length, or use fewer or smaller pictures or frames."
                )
            rows.append([*head, *text_ids[:room], *self.suffix])
            lost.append(max(0, len(text_ids) - room))
        return rows, lost

    def _joined(self, mark: Sequence[list[int]]) -> list[int]:
        ids: list[int] = []
        for index, placeholders in enumerate(mark):
            ids += (self._newline if index else self._user) + placeholders
        return ids

    def _special(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no token {token!r}; LLaVE's prompt needs it: use a Qwen tokenizer.")
        return index

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def sample_from_messages(messages: Sequence[Mapping[str, Any]]) -> ChatSample:
    """Reads one conversation: the texts of all its messages in order, and their pictures and videos.

    Raises:
        ValueError: A message is an assistant's, or holds a kind of content that has no embedding here.
    """
    sample = ChatSample()
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in ("system", "user", "query", "document"):
            raise ValueError(
                f"message {index} has the role {role!r}; an embedding is made of system and user messages."
            )
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            _add_part(sample, part, index)
    return sample


def _add_part(sample: ChatSample, part: Mapping[str, Any], index: int) -> None:
    kind = part.get("type")
    if kind == "text":
        sample.text += part["text"]
    elif kind in ("image", "video"):
        source = next((part[key] for key in (kind, "path", "url") if part.get(key) is not None), None)
        if source is None:
            raise ValueError(
                f"message {index} has a part of type {kind!r} without {kind!r}, 'path' or 'url'; add one."
            )
        if kind == "video":
            sample.videos.append(source)
        else:  # a list is several images: sentence-transformers 6.0 passes them so
            sample.images.extend(source if isinstance(source, (list, tuple)) else [source])
    elif kind == "image_url":
        address = part["image_url"]
        sample.images.append(address["url"] if isinstance(address, Mapping) else address)
    else:
        raise ValueError(f"message {index} has a part of type {kind!r}; use 'text', 'image' or 'video'.")


def _glued(text: str, has_media: bool) -> str:
    return "\n" + text if has_media and text and not text.startswith("\n") else text
