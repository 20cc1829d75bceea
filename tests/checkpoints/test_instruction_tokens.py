"""Tokens that span words: anywhere, nowhere, or in instructions only."""

from __future__ import annotations

from itertools import product

import pytest

from llave_hf.checkpoints.from_scratch import train_tokenizer

COLORS, SHAPES = ("red", "green", "blue"), ("circle", "star")
CAPTIONS = [f"a small {color} {shape}" for color, shape in product(COLORS, SHAPES)] * 40
FIND = "Find an image that matches the given caption:"
GIVEN = "\nRepresent the given image.\n"
ASK = "\nRepresent the given image with the following question:"
QUESTIONS = [f"{ASK} {asked} the {shape}?\n" for asked in ("What color is", "What size is") for shape in SHAPES] * 40
TEXTS = [*QUESTIONS, *CAPTIONS, *(f"{FIND} {caption}\n" for caption in CAPTIONS), *[GIVEN] * 200]


def tokens(merge_across_words: bool | str, text: str) -> list[str]:
    tokenizer = train_tokenizer(TEXTS, 1024, merge_across_words=merge_across_words)
    return [tokenizer.decode(token) for token in tokenizer(text)["input_ids"]]


def test_an_instruction_is_one_token_and_what_it_is_about_are_words() -> None:
    found = tokens("instructions", f"user\n{FIND} a small red circle\n")
    assert found == [f"user\n{FIND}", " a", " small", " red", " circle", "\n"]
    assert tokens("instructions", GIVEN) == [GIVEN]
    assert tokens("instructions", "user\na small red circle") == ["user\n", "a", " small", " red", " circle"]


def test_a_question_goes_with_its_instruction_but_for_its_last_word() -> None:
    assert tokens("instructions", QUESTIONS[0]) == [f"{ASK} What color is the", " circle", "?\n"]
    assert tokens("instructions", QUESTIONS[3]) == [f"{ASK} What size is the", " star", "?\n"]


def test_the_prompt_is_few_tokens() -> None:
    assert len(tokens("instructions", "system\nYou are a helpful assistant.")) == 1
    assert len(tokens("instructions", "assistant\n\n")) == 1


def test_with_all_merges_a_caption_loses_its_words_and_with_none_an_instruction_is_long() -> None:
    assert " red" not in tokens(True, f"user\n{FIND} a small red circle\n")
    assert len(tokens(False, GIVEN)) == 6


def test_colons_and_capitals_further_on_begin_no_instruction() -> None:
    found = tokens("instructions", f"user\n{FIND} a small red circle: Find an image that matches\n")
    assert found[:5] == [f"user\n{FIND}", " a", " small", " red", " circle"]
    assert " Find" not in found[0] and max(map(len, found[5:])) < 10


def test_another_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="merge_across_words is 'words'; give true, false or 'instructions'"):
        train_tokenizer(TEXTS, 1024, merge_across_words="words")
