"""Faults in what stands around an input: prompt, instruction, literal marks, length."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from .faults import Fault, Media, media_of, with_prompt
from .probes import Probe
from .reference import Reference, Row

SYSTEM_TURNS = (
    "You are a helpful assistant.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
)
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)  # to which servers cut
_NO_PROMPT = (
    "this form hands the bare text to the model; use a form that renders the chat template (`messages`, or `inputs` "
    "of /v2/embed), or put the prompt around the text yourself"
)
_TEMPLATE = "give the server the folder's own chat template (vLLM: --chat-template FOLDER/chat_template.jinja)"
_CUT = (
    "the end of a sequence is where the vector is taken from: never let the server cut it (vLLM: no "
    'truncate_prompt_tokens, and /v2/embed with "truncate": "NONE"); refuse longer inputs, or cut the text before'
)
_SPECIALS = (
    "a literal mark in a user's text becomes a special token: take such marks out of texts before they are sent, or "
    "put a space into them"
)


def prompt_faults(reference: Reference, probe: Probe, right: Row) -> Iterator[Fault]:
    """The faults that a probe can show, the likelier ones first.

    Args:
        reference: The model.
        probe: The input.
        right: Its right sequence.
    """
    text, media = probe.whole_text, media_of(reference, probe)
    if probe.kind == "over":
        whole = "the model was made for less: give the server its limit (vLLM: --max-model-len)"
        yield Fault("the text is not cut", whole, partial(with_prompt, reference, text, media), steps_back=True)
    yield from _bare(reference, text, media, "no prompt around it")
    if probe.prompt:
        yield from _bare(reference, probe.text, media, "no prompt around it, nor the instruction")
    yield from _turns(reference, probe, media, right)
    if probe.kind not in ("limit", "over"):
        yield from _texts(reference, probe, media)
        yield from _ends(reference, right)
    yield from _orders(reference, probe, media)
    for length in LENGTHS:
        if length < len(right.ids) and not media.marks:
            yield Fault(f"only the last {length} tokens are taken", _CUT, partial(Row, right.ids[-length:]))


def _bare(reference: Reference, text: str, media: Media, name: str) -> Iterator[Fault]:
    joint = _ids(reference, reference.builder.style.joint)
    marks = [token for place, mark in enumerate(media.marks) for token in [*(joint if place else ()), *mark]]
    glue = joint if marks and text else []
    for split in (True, False):
        ids = [*marks, *glue, *_ids(reference, text, split=split)]
        if ids:
            yield Fault(name, _NO_PROMPT, partial(Row, ids, media.tensors))


def _turns(reference: Reference, probe: Probe, media: Media, right: Row) -> Iterator[Fault]:
    builder = reference.builder
    opening = builder.prefix[:-1]
    user = right.ids[len(opening) :]
    if opening:
        yield Fault("the system turn is left out", _TEMPLATE, partial(Row, user, media.tensors))
    for system in SYSTEM_TURNS:
        turn = _turn(reference, "system\n" + system)
        if turn != opening:
            yield Fault(f"the system turn is {system!r}", _TEMPLATE, partial(Row, [*turn, *user], media.tensors))
    if probe.prompt:
        plain = with_prompt(reference, probe.text, media, probe.limit)
        named = "the server does not know the model's instructions: put them before the text yourself"
        yield Fault("the instruction is left out", named, lambda: plain)
        turn = _turn(reference, "system\n" + probe.prompt.strip())
        row = Row([*turn, *plain.ids[len(opening) :]], media.tensors)
        yield Fault("the instruction is taken for the system turn", _TEMPLATE, lambda: row)
    ending = len(builder.suffix)
    answer = [*right.ids[: len(right.ids) - ending], *builder.suffix[:1], *_ids(reference, "\n")]
    start = reference.tokenizer.convert_tokens_to_ids("<|im_start|>")
    generation = [*answer, start, *_ids(reference, "assistant\n")]
    advice = "the empty assistant turn belongs to the prompt: use the folder's chat template"
    yield Fault("it ends where an answer would begin", advice, partial(Row, generation, media.tensors))
    rendered = [*builder.prefix, *_ids(reference, "user\n"), *right.ids, *builder.suffix]
    twice = "the server puts the prompt around a text itself: send the bare text"
    yield Fault("the prompt stands around it twice", twice, partial(Row, rendered, media.tensors))


def _texts(reference: Reference, probe: Probe, media: Media) -> Iterator[Fault]:
    text, tokenizer = probe.whole_text, reference.tokenizer
    builder = reference.builder
    special = [token for token in tokenizer.all_special_tokens if token in text]
    if special:
        ids = [*builder.prefix, *_ids(reference, "user\n" + text, split=False), *builder.suffix]
        yield Fault("literal marks are read as special tokens", _SPECIALS, partial(Row, ids))
        without = text
        for token in special:
            without = without.replace(token, "")
        advice = "the server takes literal marks out of texts, which changes them: send texts without such marks"
        yield Fault(
            "literal marks are taken out", advice, partial(with_prompt, reference, without, media, probe.limit)
        )
    if text.strip() != text:
        advice = "the server or its template strips texts; use the folder's chat template"
        yield Fault(
            "white space is stripped", advice, partial(with_prompt, reference, text.strip(), media, probe.limit)
        )
    for name, prompt in reference.prompts.items():
        if prompt and not probe.prompt:
            advice = "leave that prompt out of the request, and out of default_prompt_name"
            other = partial(with_prompt, reference, prompt + text, media, probe.limit)
            yield Fault(f"the prompt {name!r} stands before it", advice, other)


def _ends(reference: Reference, right: Row) -> Iterator[Fault]:
    tokenizer = reference.tokenizer
    advice = "the server adds special tokens to what the template gave (vLLM: add_special_tokens): turn that off"
    for token in dict.fromkeys((tokenizer.eos_token_id, tokenizer.pad_token_id)):
        if token is not None:
            name = f"{tokenizer.convert_ids_to_tokens(token)} is added at the end"
            yield Fault(name, advice, partial(Row, [*right.ids, token], right.tensors))
    if tokenizer.bos_token_id is not None:
        name = f"{tokenizer.convert_ids_to_tokens(tokenizer.bos_token_id)} is added at the beginning"
        yield Fault(name, advice, partial(Row, [tokenizer.bos_token_id, *right.ids], right.tensors))


def _orders(reference: Reference, probe: Probe, media: Media) -> Iterator[Fault]:
    if not media.marks:
        return
    text = probe.whole_text
    builder, flat = reference.builder, [token for mark in media.marks for token in mark]
    newline = _ids(reference, "\n")
    joined = [token for place, mark in enumerate(media.marks) for token in [*(newline if place else ()), *mark]]
    layouts = {
        "pictures stand behind the text": [*_ids(reference, "user\n" + text), *newline, *joined],
        "pictures stand directly behind the text": [*_ids(reference, "user\n" + text), *flat],
        "nothing stands between pictures and text": [*_ids(reference, "user\n"), *flat, *_ids(reference, text)],
        "newlines stand between pictures and text": [
            *_ids(reference, "user\n"),
            *joined,
            *(_ids(reference, "\n" + text) if text else ()),
        ],
    }
    for name, ids in layouts.items():
        yield Fault(name, _TEMPLATE, partial(Row, [*builder.prefix, *ids, *builder.suffix], media.tensors))
    lost = "the server drops pictures without a word: use a form that takes them"
    yield Fault("the pictures are left out", lost, partial(with_prompt, reference, text, Media([], {}), probe.limit))


def _turn(reference: Reference, text: str) -> list[int]:
    start, end = reference.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    return [start, *_ids(reference, text), end, *_ids(reference, "\n")]


def _ids(reference: Reference, text: str, *, split: bool = True) -> list[int]:
    """Token ids of a text; with `split` its special tokens are plain text."""
    if not text:
        return []
    settings = {"add_special_tokens": False, "split_special_tokens": split, "verbose": False}
    return list(reference.tokenizer(text, **settings)["input_ids"])
