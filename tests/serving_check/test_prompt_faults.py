"""Each fault in prompt, pooling, length and order, planted in a real server, is named by the check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_model import MAX_LENGTH, Local, saved
from planted_server import Asked, Embed, run, run_ids, unit

from llave_hf.model.sentence_transformer_layout_llave import PROMPTS
from llave_hf.serving_check.probes import KINDS

Plant = Callable[[Local], Embed]
TEXTS = ("text",)


def ids_of(local: Local, text: str) -> list[int]:
    return local.processor(text=[text])["input_ids"][0].tolist()


def whole_prompt(local: Local, asked: Asked) -> str:
    """The prompt as the folder's template renders it."""
    parts = [{"type": "text", "text": asked.prompt + asked.text}]
    return local.processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)


def of_ids(change: Callable[[Local, list[int]], list[int]]) -> Plant:
    """A server that changes the right token ids."""
    return lambda local: (
        lambda asked: run_ids(local.model, change(local, ids_of(local, asked.prompt + asked.text)))[-1]
    )


def of_text(change: Callable[[str], str]) -> Plant:
    return lambda local: lambda asked: run_ids(local.model, ids_of(local, change(asked.prompt + asked.text)))[-1]


def of_string(change: Callable[[str], str]) -> Plant:
    """A server that renders the template and tokenises what it gave as a whole."""

    def plant(local: Local) -> Embed:
        def embed(asked: Asked) -> np.ndarray:
            ids = local.processor.tokenizer(change(whole_prompt(local, asked)), add_special_tokens=False)["input_ids"]
            backbone = local.model.backbone
            with torch.inference_mode():
                embeds = backbone.get_input_embeddings()(torch.tensor([ids]))
                return backbone.language_model(inputs_embeds=embeds).last_hidden_state[0, -1].numpy()

        return embed

    return plant


def pooled(pool: Callable[[np.ndarray], np.ndarray]) -> Plant:
    return lambda local: lambda asked: pool(run(local.model, local.processor(text=[asked.text], **asked.media)))


def no_prompt(local: Local) -> Embed:
    return lambda asked: run_ids(local.model, local.processor.tokenizer(asked.text)["input_ids"])[-1]


SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
FAULTS: dict[str, tuple[tuple[str, ...], Plant]] = {
    "no prompt around it": (TEXTS, no_prompt),
    "the end is cut off, after token 18 of": (TEXTS, of_ids(lambda _, ids: ids[:18])),
    "the prompt's end is left out, after token": (TEXTS, of_ids(lambda _, ids: ids[:-1])),
    "only the last 64 tokens are taken": (("limit",), of_ids(lambda _, ids: ids[-64:])),
    "the mean of all tokens is taken": (TEXTS, pooled(lambda hidden: hidden.mean(0))),
    "the first token is taken": (TEXTS, pooled(lambda hidden: hidden[0])),
    "the system turn is left out": (TEXTS, of_string(lambda text: text.removeprefix(SYSTEM))),
    "the system turn is 'You are Qwen, created": (
        TEXTS,
        of_string(lambda text: text.replace("You are a", "You are Qwen, created by Alibaba Cloud. You are a")),
    ),
    "it ends where an answer would begin": (
        TEXTS,
        of_string(lambda text: text.removesuffix("assistant\n\n<|im_end|>\n") + "assistant\n"),
    ),
    "literal marks are read as special tokens": (("marks",), of_string(lambda text: text)),
    "literal marks are taken out": (
        ("marks",),
        of_text(lambda text: text.replace("<image>", "").replace("<|im_end|>", "")),
    ),
    "white space is stripped": (TEXTS, of_text(str.strip)),
    "the prompt 'caption_query' stands before it": (TEXTS, of_text(lambda text: PROMPTS["caption_query"] + text)),
    "the instruction is left out": (
        ("instruction",),
        lambda local: lambda asked: run_ids(local.model, ids_of(local, asked.text))[-1],
    ),
    "is added at the end": (
        TEXTS,
        of_ids(lambda local, ids: [*ids, local.processor.tokenizer.eos_token_id]),
    ),
    "the text is not cut": (
        ("over",),
        lambda local: lambda asked: run(local.model, local.processor(text=[asked.text], max_length=9999))[-1],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name: str, local: Local) -> None:
    kinds, plant = FAULTS[name]
    report = local.check(local.planted(plant(local)), kinds)
    assert not report.agrees
    named = {probe: cause.name for (_, probe), cause in report.causes.items()}
    assert named and all(name in found for found in named.values()), named
    lines = "\n".join(report.lines)
    assert f"OFF: {named.popitem()[1]} (vectors made so have cosines of 1.0000" in lines and "what to do: " in lines
    for outcome in report.asked.outcomes:
        assert (outcome.verdict == "off") == ((outcome.form.name, outcome.probe.name) in report.causes)


def test_the_prompt_twice(local: Local) -> None:
    def embed(asked: Asked) -> np.ndarray:
        start = local.processor.tokenizer("<|im_start|>user\n")["input_ids"]
        inner = ids_of(local, asked.text)
        end = ids_of(local, "x")[-10:]
        closing = end[end.index(local.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")) :]
        opening = local.processor.tokenizer(SYSTEM)["input_ids"]
        return run_ids(local.model, [*opening, *start, *inner, *closing])[-1]

    report = local.check(local.planted(embed), TEXTS)
    assert {cause.name for cause in report.causes.values()} == {"the prompt stands around it twice"}


def test_an_instruction_that_becomes_the_system_turn(local: Local) -> None:
    """As templates do that know nothing of sentence-transformers' prompts."""

    def embed(asked: Asked) -> np.ndarray:
        text = whole_prompt(local, Asked(asked.text)).replace("You are a helpful assistant.", asked.prompt.strip())
        return run_ids(local.model, local.processor.tokenizer(text)["input_ids"])[-1]

    report = local.check(local.planted(embed), ("instruction",))
    assert {c.name for c in report.causes.values()} == {"the instruction is taken for the system turn"}


def test_a_text_over_the_limit_may_be_refused_but_not_cut_at_its_end(local: Local) -> None:
    def whole(asked: Asked) -> list[int]:
        return local.processor(text=[asked.text], max_length=9999)["input_ids"][0].tolist()

    def refusing(asked: Asked) -> np.ndarray:
        if len(whole(asked)) > MAX_LENGTH:
            raise ValueError("This model's maximum context length is 720 tokens.")
        return local.right(asked)

    report = local.check(local.planted(refusing), ("text", "over"))
    assert report.agrees and "refused: as it may be" in "\n".join(report.lines)
    report = local.check(local.planted(lambda asked: run_ids(local.model, whole(asked)[:MAX_LENGTH])[-1]), ("over",))
    (cause,) = report.causes.values()
    assert cause.name.startswith("the end is cut off, after token 720 of") and "truncate" in cause.advice


def test_a_server_with_a_lower_limit_gets_shorter_texts(local: Local) -> None:
    def limited(asked: Asked) -> np.ndarray:
        inputs = local.processor(text=[asked.text], max_length=200)
        return run(local.model, inputs)[-1]

    report = local.check(local.planted(limited, limit=200), ("limit", "over"))
    assert report.agrees and report.limit == 200
    assert "up to 200 tokens" in report.lines[0]


# ------------------------------------------------------------------------------------------ length, numbers, rounding


def test_vectors_that_are_not_normalised(local: Local) -> None:
    report = local.check(local.planted(finish=lambda vector, dimensions: vector), TEXTS)
    assert {cause.name for cause in report.causes.values()} == {"not normalised"}
    assert all(abs(outcome.cosine - 1) < 1e-9 for outcome in report.asked.outcomes if outcome.cosine)


def test_a_fault_and_vectors_that_are_not_normalised(local: Local) -> None:
    planted = local.planted(no_prompt(local), finish=lambda vector, dimensions: vector)
    names = {cause.name for cause in local.check(planted, TEXTS).causes.values()}
    assert names == {"no prompt around it; not normalised"}
    planted.finish = lambda vector, dimensions: 3 * unit(vector, dimensions)
    names = {cause.name for cause in local.check(planted, TEXTS).causes.values()}
    assert names == {"no prompt around it; of length 3 instead of 1"}


def cut_only(vector: np.ndarray, dimensions: int | None) -> np.ndarray:
    return unit(vector, None)[:dimensions]


def last_numbers(vector: np.ndarray, dimensions: int | None) -> np.ndarray:
    return unit(vector[-dimensions:] if dimensions else vector, None)


@pytest.mark.parametrize(
    ("finish", "name"),
    [(cut_only, "cut to `dimensions` and not brought back to length 1"), (last_numbers, "the last numbers are taken")],
)
def test_dimensions(finish: Any, name: str, local: Local) -> None:
    report = local.check(local.planted(finish=finish), ("text", "dimensions"))
    assert {probe: cause.name for (_, probe), cause in report.causes.items()} == {"12 dimensions": name}


def test_dimensions_that_are_not_heeded(local: Local) -> None:
    report = local.check(local.planted(finish=lambda vector, _: unit(vector, None)), ("text", "dimensions"))
    assert "FAILED: the vector has 24 numbers, and the model's have 12 (`dimensions` was not heeded)" in report.lines
    assert not report.agrees


@pytest.mark.parametrize(
    ("name", "tolerance"), [("bfloat16", None), pytest.param("float16", 1e-9, marks=pytest.mark.slow)]
)
def test_rounding_is_told_from_faults(name: str, tolerance: float | None, local: Local) -> None:
    def embed(asked: Asked) -> np.ndarray:
        with torch.autocast("cpu", dtype=getattr(torch, name)):
            return local.right(asked)

    report = local.check(local.planted(embed), ("text", "picture"), tolerance=tolerance)
    assert not report.agrees
    found = [cause.name for cause in report.causes.values()]
    assert len(found) >= 3 and set(found) == {f"rounding as of {name}"}, found
    assert local.check(local.planted(embed), ("text", "picture"), tolerance=1e-2).agrees


def test_a_fault_under_rounding_is_still_named(local: Local) -> None:
    def embed(asked: Asked) -> np.ndarray:
        with torch.autocast("cpu", dtype=torch.float16):
            return no_prompt(local)(asked)

    names = {cause.name for cause in local.check(local.planted(embed), TEXTS).causes.values()}
    assert names == {"no prompt around it"}


def test_what_no_fault_explains_is_said_to_be_unknown(local: Local) -> None:
    random = np.random.default_rng(0)
    report = local.check(local.planted(lambda asked: random.normal(size=24)), TEXTS)
    assert all(not cause.name and len(cause.nearest) == 2 for cause in report.causes.values())
    assert len(report.causes) == 3
    lines = "\n".join(report.lines)
    assert "OFF, unknown: no known fault gives this vector" in lines and "  nearest: " in lines


def test_a_model_whose_vectors_are_not_normalised(tmp_path: Path) -> None:
    raw = saved(tmp_path / "model", normalize=False)
    as_it_is = raw.planted(finish=lambda vector, dimensions: vector[:dimensions])
    assert raw.check(as_it_is, ("text", "dimensions")).agrees
    names = {cause.name for cause in raw.check(raw.planted(), ("text",)).causes.values()}
    assert names == {"normalised, which the model's own vectors are not"}


def test_answers_in_another_order(local: Local) -> None:
    def turned(path: str, body: dict[str, Any], answer: Any) -> tuple[int, Any]:
        vectors = [entry["embedding"] for entry in answer["data"]]
        return 200, {"data": [{"index": place, "embedding": v} for place, v in enumerate(vectors[::-1])]}

    report = local.check(local.planted(change=turned), ("text", "marks"), ("input-list",))
    names = {probe: cause.name for (_, probe), cause in report.causes.items()}
    assert names["text"] == "it is the vector of 'the word <image>'" and len(names) == 6


def test_index_says_the_order(local: Local) -> None:
    planted = local.planted(change=lambda path, body, answer: (200, {"data": answer["data"][::-1]}))
    assert local.check(planted, ("text", "marks"), ("input-list",)).agrees


def test_every_kind_is_asked_for(local: Local) -> None:
    planted = local.planted()
    report = local.check(planted, KINDS, ("messages",))
    assert report.agrees and set(report.kinds) == set(KINDS)
    parts = [part["type"] for _, body in planted.seen for part in body["messages"][-1]["content"]]
    assert {"text", "image_url", "video_url"} == set(parts)
