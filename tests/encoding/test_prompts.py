from __future__ import annotations

from types import SimpleNamespace

import pytest
from helpers import picture

from llave_hf.encoding.prompts import check_prompts, default_prompts, document_input, parse_prompts, query_input
from llave_hf.errors import UserError
from llave_hf.model.sentence_transformer_layout_llave import PROMPTS


def test_a_llave_model_is_asked_as_it_was_trained() -> None:
    prompts = default_prompts(object())  # as `LlaveEncoder`, which has no prompts of its own
    assert query_input(prompts, "a {dog}", None) == "Find an image that matches the given caption: a {dog}\n"
    stored = document_input(prompts, "image", "a.png")
    assert stored == {"image": "a.png", "text": PROMPTS["retrieval_document"]}
    shown = picture()
    assert query_input(prompts, None, shown) == {**stored, "image": shown}  # it finds itself
    assert query_input(prompts, "in blue", shown)["text"].endswith("described changes: in blue\n")
    assert document_input(prompts, "text", "a passage") == "a passage"


def test_another_model_is_asked_plainly() -> None:
    prompts = default_prompts(SimpleNamespace(prompts={}))
    shown = picture()
    assert query_input(prompts, "a dog", None) == "a dog"
    assert query_input(prompts, None, shown) == {"image": shown}
    assert query_input(prompts, "in blue", shown) == {"image": shown, "text": "in blue"}
    assert document_input(prompts, "video", "a.mp4") == {"video": "a.mp4"}


def test_prompts_of_the_command_line() -> None:
    parsed = parse_prompts([r"query=Find = this: {text}\n", "text=Read: ", "image="])
    assert parsed == {"query": "Find = this: {text}\n", "text": "Read: {text}", "image": ""}


@pytest.mark.parametrize("setting", ["querry=Find", "query"])
def test_a_mistaken_prompt_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match="a prompt is NAME=TEXT, with NAME one of query, image_query"):
        parse_prompts([setting])
    assert check_prompts({}) == {}
