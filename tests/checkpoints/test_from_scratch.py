from __future__ import annotations

import unicodedata

import pytest
import torch
from helpers import TEXTS, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from llave_hf.checkpoints.from_scratch import SPECIAL_TOKENS, train_tokenizer

TOKENIZER = train_tokenizer(TEXTS, 320)


def test_training_is_deterministic() -> None:
    assert train_tokenizer(iter(TEXTS), 320).get_vocab() == TOKENIZER.get_vocab()
    state, again = tiny_model(seed=5)[0].state_dict(), tiny_model(seed=5)[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    other = tiny_model(seed=6)[0].state_dict()
    assert not torch.equal(
        state["backbone.language_model.embed_tokens.weight"], other["backbone.language_model.embed_tokens.weight"]
    )


def test_vocabulary_size_and_special_tokens() -> None:
    assert len(TOKENIZER) == 320
    assert [TOKENIZER.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert set(TOKENIZER.all_special_tokens) == set(SPECIAL_TOKENS)
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert len(train_tokenizer(["a"], 100_000)) < 320  # few texts give few merges


def test_too_small_a_vocabulary_is_refused() -> None:
    assert len(train_tokenizer(TEXTS, 261)) == 261
    with pytest.raises(ValueError, match="vocab_size is 260; a byte-level tokenizer needs at least 261"):
        train_tokenizer(TEXTS, 260)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(SPECIAL_TOKENS))
def test_user_text_never_becomes_a_special_token_and_reads_back(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not set(ids) & set(TOKENIZER.all_special_ids)
    decoded = TOKENIZER.decode(ids, clean_up_tokenization_spaces=False)
    assert decoded == unicodedata.normalize("NFC", text)


def test_compatibility_characters_are_kept() -> None:
    ids = TOKENIZER("\ufb01ne \u00bd", add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == "\ufb01ne \u00bd"


def test_model_fits_the_tokenizer_and_the_processor() -> None:
    model, processor = tiny_model(processor={"video_newline": "grid", "unpad_rounding": "round"})
    config = model.config
    assert (config.video_newline, config.unpad_rounding) == ("grid", "round")
    assert config.backbone_config.image_token_id == processor.image_token_id
    assert config.backbone_config.video_token_id == processor.video_token_id
    grids = [[width, height] for height, width in config.backbone_config.image_grid_pinpoints]
    assert grids == processor.image_grid_pinpoints  # transformers writes (height, width)
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)
