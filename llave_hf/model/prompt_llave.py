"""LLaVE's prompt: from a sample's text and pictures to token ids, and from chat messages to samples.

Upstream: llava/conversation.py, `qwen_1_5`, with an empty assistant turn; the newline after that turn's
`<|im_end|>` is the pooled token. Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from .media_pictures_llave import as_sequence


@dataclass(frozen=True)
class PromptStyle:
    """How a backbone's prompt is written.

    Args:
        system: The system turn's text, or None where the backbone's chat template has no such turn.
        image_mark, video_mark: What stands for one picture in the prompt as a string.
        joint: Between two pictures, and between pictures and a text that does not begin with it.
        trim: Whether the user's turn loses white space at its ends.
    """

    system: str | None = "You are a helpful assistant."
    image_mark: str = "<image>"
    video_mark: str = "<video>"
    joint: str = "\n"
    trim: bool = False

    @property
    def opening(self) -> str:
        """What stands before the user's turn."""
        return "" if self.system is None else f"<|im_start|>system\n{self.system}<|im_end|>\n"

    @property
    def chat_template(self) -> str:
        """The prompt in Jinja, for engines that render it themselves."""
        values = {
            "OPENING": self.opening,
            "IMAGE_MARK": self.image_mark,
            "VIDEO_MARK": self.video_mark,
            "JOINT": self.joint,
            "CONTENT": "(marks + glue + ns.text)|trim" if self.trim else "marks + glue + ns.text",
        }
        template = _CHAT_TEMPLATE
        for name, value in values.items():
            template = template.replace(f"@{name}@", json.dumps(value, ensure_ascii=False).replace("'", "\\'")[1:-1])
        return template


# Images come before text, and a system message (which is how sentence-transformers passes a prompt) is put before the
# user's text.
_CHAT_TEMPLATE = """\
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
{%- set ns.images = ns.images + ('@JOINT@' if ns.images else '') + '@IMAGE_MARK@' -%}
{%- elif part['type'] in ['video', 'video_url'] -%}
{%- set ns.videos = ns.videos + ('@JOINT@' if ns.videos else '') + '@VIDEO_MARK@' -%}
{%- else -%}
{%- set ns.text = ns.text + part['text'] -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- set marks = ns.images + ('@JOINT@' if ns.images and ns.videos else '') + ns.videos -%}
{%- set glue = '@JOINT@' if marks and ns.text and not ns.text.startswith('@JOINT@') else '' -%}
{{- '@OPENING@<|im_start|>user\\n' -}}
{{- @CONTENT@ + '<|im_end|>\\n<|im_start|>assistant\\n\\n<|im_end|>\\n' -}}
"""

_SUFFIXES = "png|jpe?g|webp|gif|bmp|tiff?|ppm|avif|hei[cf]|mp4|webm|mkv|mov|avi|m4v|mpe?g|wmv|flv|wav|mp3|flac|ogg|aac"
# One word, or a path, that ends as a media file does.
_FILE_NAME = re.compile(rf"(\S*|[^\n]*/[^\n]*)\.({_SUFFIXES})", re.IGNORECASE)


@dataclass
class ChatSample:
    """What one conversation asks to embed."""

    text: str = ""
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)
    """Texts that read like the name of a picture, video or sound."""

    def add(self, other: ChatSample) -> None:
        """Appends another's content."""
        self.text += other.text
        self.images += other.images
        self.videos += other.videos
        self.file_names += other.file_names


class PromptBuilder:
    """Token ids of the prompt around a sample.

    Args:
        tokenizer: Knows `<|im_start|>` and `<|im_end|>` as special tokens.
        style: How the backbone's prompt is written.

    User text is tokenised with `split_special_tokens`, so that a literal `<image>` or `<|im_end|>` in it is text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, style: PromptStyle | None = None) -> None:
        self.tokenizer = tokenizer
        self.style = style or PromptStyle()
        start, end = (self._special(token) for token in ("<|im_start|>", "<|im_end|>"))
        newline = self._plain("\n")
        opening = []
        if self.style.system is not None:
            opening = [start, *self._plain(f"system\n{self.style.system}"), end, *newline]
        self.prefix = [*opening, start]
        self.suffix = [end, *newline, start, *self._plain("assistant\n\n"), end, *newline]
        self._user = self._plain("user\n")

    def build(
        self,
        texts: Sequence[str],
        marks: Sequence[Sequence[list[int]]],
        max_length: int,
        placeholder: str | None = None,
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of each sample, and how many tokens of user text each lost to `max_length`.

        Args:
            texts: User texts.
            marks: For each sample, the placeholder ids of each of its pictures or videos.
            max_length: Longest sequence in tokens.
            placeholder: Where this string stands in a text, a picture stands, instead of before the text.

        Raises:
            ValueError: A sample's pictures and the prompt alone are longer than `max_length`, or a text has not one
                placeholder a picture.
        """
        if placeholder is not None:
            pieces = [
                _split(text, mark, placeholder, row) for row, (text, mark) in enumerate(zip(texts, marks, strict=True))
            ]
        else:
            pieces = [self._pictures_first(text, len(mark)) for text, mark in zip(texts, marks, strict=True)]
        if self.style.trim:
            pieces = [_trimmed(row) for row in pieces]
        flat = [piece for row in pieces for piece in row]
        # Not its own line about a text that is too long: the caller says how much of it was left out.
        settings = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        tokenised = iter(self.tokenizer(flat, **settings)["input_ids"])
        rows, lost = [], []
        for index, (mark, row_pieces) in enumerate(zip(marks, pieces, strict=True)):
            *before, last = [list(next(tokenised)) for _ in row_pieces]
            head = [*self.prefix, *(token for ids, one in zip(before, mark, strict=True) for token in (*ids, *one))]
            room = max_length - len(head) - len(self.suffix)
            least = 0 if mark else len(self._user)
            if room < least:
                raise ValueError(
                    f"row {index} of the batch takes {len(head) + len(self.suffix) + least} tokens before its text, "
                    f"over max_length {max_length}; raise max_length, or use fewer or smaller pictures or frames."
                )
            rows.append([*head, *last[:room], *self.suffix])
            lost.append(max(0, len(last) - room))
        return rows, lost

    def _pictures_first(self, text: str, pictures: int) -> list[str]:
        """The pieces of text around the pictures: one more than there are pictures.

        Without a picture, the words "user\\n" and the text are one piece: the tokenizer's merges may cross them.
        """
        if not pictures:
            return ["user\n" + text]
        joint = self.style.joint
        glue = joint if text and not text.startswith(joint) else ""
        return ["user\n", *[joint] * (pictures - 1), glue + text]

    def _special(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no token {token!r}; LLaVE's prompt needs it: use a Qwen tokenizer.")
        return index

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _split(text: str, mark: Sequence[list[int]], placeholder: str, row: int) -> list[str]:
    pieces = text.split(placeholder)
    if len(pieces) != len(mark) + 1:
        raise ValueError(
            f"text of row {row} holds {placeholder!r} {len(pieces) - 1} times for {len(mark)} pictures; write it once "
            "where each picture belongs, or leave `placeholder` out to have the pictures first."
        )
    return ["user\n" + pieces[0], *pieces[1:]]


def _trimmed(pieces: Sequence[str]) -> list[str]:
    """The pieces of a user turn without white space at its ends."""
    kept = [pieces[0].removeprefix("user\n").lstrip(), *pieces[1:]]
    kept[-1] = kept[-1].rstrip()
    return ["user\n" + kept[0], *kept[1:]]


def sample_from_messages(messages: Sequence[Mapping[str, Any]]) -> ChatSample:
    """Reads one conversation: the texts of all its messages in order, and their pictures and videos.

    Raises:
        ValueError: A message is an assistant's, is no message, or holds a kind of content that has no embedding here;
            or the conversation is a pair of a query and a document.
    """
    sample = ChatSample()
    roles = set()
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(
                f"message {index} is {type(message).__name__}, not a mapping with 'role' and 'content'; a list that "
                "begins with a message is one conversation: put each conversation of several into a list of its own."
            )
        role = message.get("role")
        if role not in ("system", "user", "query", "document"):
            raise ValueError(
                f"message {index} has the role {role!r}; an embedding is made of system and user messages."
            )
        roles.add(role)
        for part in _parts(message, index):
            _add_part(sample, part, index)
    if {"query", "document"} <= roles:  # what sentence-transformers makes of ("a", "b"), for models that score pairs
        raise ValueError(
            "an input is a pair of a query and a document, which has no one embedding; pass each as an input of its "
            "own, and a picture with its text as {'image': ..., 'text': ...}."
        )
    return sample


def _parts(message: Mapping[str, Any], index: int) -> Sequence[Any]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        raise ValueError(
            f"message {index} has {type(content).__name__} as 'content'; give a string, or a list of parts such as "
            "{'type': 'text', 'text': ...} and {'type': 'image', 'image': ...}."
        )
    return content


def _add_part(sample: ChatSample, part: Any, index: int) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str):
            raise ValueError(
                f"message {index} has {type(text).__name__} as 'text', not a string; leave the text (or the prompt) "
                "out where there is none."
            )
        sample.text += text
        if _FILE_NAME.fullmatch(text):
            sample.file_names.append(text)
    elif kind in ("image", "video"):
        source = next((part[key] for key in (kind, "path", "url") if part.get(key) is not None), None)
        if source is None and isinstance(part.get("base64"), str):  # as transformers' chat messages have it
            source = f"data:;base64,{part['base64'].rpartition('base64,')[2]}"
        if source is None:
            raise ValueError(
                f"message {index} has a part of type {kind!r} without {kind!r}, 'path', 'url' or 'base64'; add one."
            )
        if kind == "video":
            sample.videos.append(source)
        else:  # a list is several images: sentence-transformers 6.0 passes them so
            sample.images.extend(_as_list(source))
    elif kind in ("image_url", "video_url"):  # as OpenAI's messages have it
        given = part.get(kind)
        source = given.get("url") if isinstance(given, Mapping) else given
        if not isinstance(source, str):
            raise ValueError(
                f"message {index} has a part of type {kind!r} without its address; write a data URI or a path as "
                f"{{'type': {kind!r}, {kind!r}: {{'url': ...}}}}."
            )
        (sample.images if kind == "image_url" else sample.videos).append(source)
    elif kind == "message":  # how sentence-transformers passes a conversation that stands among other inputs
        sample.add(sample_from_messages(part["message"]))
    else:
        hint = " (a bare array of two dimensions is taken for sound: pass {'image': array})" if kind == "audio" else ""
        raise ValueError(f"message {index} has a part of type {kind!r}; use 'text', 'image' or 'video'{hint}.")


def aligned_samples(text: Any, images: Any, videos: Any) -> tuple[list[str], list[list[Any]], list[Any]]:
    """B texts, B lists of images and B videos or None, from whatever was left out.

    Raises:
        ValueError: Something is no sequence, counts differ, there is nothing to embed, or a text is no string.
    """
    given = {"text": [text] if isinstance(text, str) else text, "images": images, "videos": videos}
    lists = {name: as_sequence(entries) for name, entries in given.items() if entries is not None}
    for name, entries in lists.items():
        if entries is None:
            kind = type(given[name]).__name__
            raise ValueError(f"{name} is {kind}; give a list with one entry a sample: {name}=[...], also for one.")
    counts = {name: len(entries or ()) for name, entries in lists.items()}
    if not counts or 0 in counts.values():
        raise ValueError("LlaveProcessor got nothing to embed; pass text=, images= or videos=, one entry a sample.")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"LlaveProcessor got {found}; give each one entry a sample, None where a sample has none.")
    size = next(iter(counts.values()))
    texts = lists.get("text") or [""] * size
    for index, entry in enumerate(texts):
        if not isinstance(entry, str):
            raise ValueError(f"text of row {index} is {type(entry).__name__}, not a string; pass '' for no text.")
    image_lists = [_as_list(entry) for entry in lists.get("images") or [None] * size]
    return texts, image_lists, lists.get("videos") or [None] * size


def _as_list(entry: Any) -> list[Any]:
    several = as_sequence(entry)
    return several if several is not None else [] if entry is None else [entry]
