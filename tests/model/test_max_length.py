"""The longest input is one number: whoever sets it by one of its names is obeyed, and all names say it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from sentence_transformers import SentenceTransformer
from transformers import AutoProcessor

from llave_hf import LlaveProcessor
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.sentence_transformer import LlaveSentenceTransformer
from llave_hf.hub.card.model_card import write_model_card

LONG = "snow " * 100  # some 420 tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, processor = tiny_model(processor={"max_length": 100})
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def told(folder: Path) -> set[int]:
    """What the files of a folder say."""
    names = {"processor_config.json": "max_length", "tokenizer_config.json": "model_max_length"}
    return {json.loads((folder / file).read_text())[name] for file, name in names.items()}


def cut(processor: LlaveProcessor) -> int:
    return processor(text=[LONG])["input_ids"].shape[1]


def set_max_length(encoder: Any, value: int) -> None:
    encoder.processor.max_length = value


def set_max_seq_length(encoder: Any, value: int) -> None:
    encoder.max_seq_length = value


def set_model_max_length(encoder: Any, value: int) -> None:
    encoder.processor.tokenizer.model_max_length = value


def make_encoder(folder: Path) -> LlaveEncoder:
    return LlaveEncoder(tiny_model()[0], LlaveProcessor.from_pretrained(folder))


def open_own(folder: Path) -> LlaveSentenceTransformer:
    return LlaveSentenceTransformer(str(folder), device="cpu")


def open_stock(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("change", [set_max_length, set_max_seq_length, set_model_max_length])
@pytest.mark.parametrize("opened", [make_encoder, open_own, open_stock])
def test_every_name_sets_the_one_number(
    folder: Path, opened: Callable[[Path], Any], change: Callable[[Any, int], None]
) -> None:
    encoder = opened(folder)
    for value in (None, 60, 180):
        if value is not None:
            change(encoder, value)
        names = (encoder.max_seq_length, encoder.processor.max_length, encoder.processor.tokenizer.model_max_length)
        assert {*names, cut(encoder.processor)} == {value or 100}


@pytest.mark.parametrize("opened", [open_own, open_stock])
def test_it_is_saved_as_it_was_set_and_the_card_says_it(folder: Path, tmp_path: Path, opened: Any) -> None:
    model = opened(folder)
    model.max_seq_length = 180
    model.save_pretrained(str(tmp_path / "saved"))
    assert told(tmp_path / "saved") == {180}
    again = opened(tmp_path / "saved")
    assert {again.max_seq_length, cut(again.processor)} == {180}
    card = write_model_card(tmp_path / "saved", force=True).read_text(encoding="utf-8")
    assert "at most 180 tokens" in card.lower()


def test_metadata_for_mteb_and_the_leaderboard_say_it(folder: Path) -> None:
    pytest.importorskip("mteb")
    from llave_hf.evaluation.mteb.model_meta import model_meta
    from llave_hf.evaluation.report.leaderboard import _metadata

    for opened in (make_encoder, open_own, open_stock):
        encoder = opened(folder)
        encoder.max_seq_length = 90
        meta = model_meta(encoder, str(folder), revision=None, use_instructions=False, loader=open_own, changes={})
        assert meta.max_tokens == 90
        assert _metadata("a", encoder, 24)["max_length_tokens"] == 90


def test_it_can_be_chosen_where_the_model_is_opened(folder: Path, tmp_path: Path) -> None:
    for name in ("max_length", "model_max_length"):
        for kind in (AutoProcessor, LlaveProcessor):
            processor = kind.from_pretrained(folder, **{name: 60})
            assert {processor.max_length, cut(processor)} == {60}
            processor.save_pretrained(tmp_path / "again")
            assert told(tmp_path / "again") == {60}
            assert "max_length" not in json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    for options in ({"processor_kwargs": {"model_max_length": 60}}, {"processor_kwargs": {"max_length": 60}}):
        model = SentenceTransformer(str(folder), device="cpu", **options)
        assert {model.max_seq_length, cut(model.processor)} == {60}
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_seq_length": 60}))
    model = open_stock(folder)
    assert {model.max_seq_length, cut(model.processor)} == {60}


@pytest.mark.parametrize(("in_tokenizer", "holds"), [(32768, 100), (45, 45), (None, 100)])
def test_of_a_folder_with_two_numbers_the_lower_holds(folder: Path, in_tokenizer: int | None, holds: int) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": in_tokenizer}))
    processor = LlaveProcessor.from_pretrained(folder)
    assert {processor.max_length, cut(processor), open_stock(folder).max_seq_length} == {holds}


@pytest.mark.parametrize("value", [0, -1, 2.5, "long", None])
def test_what_is_no_length_is_refused(folder: Path, value: Any) -> None:
    processor = LlaveProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"max_length is .*; give the longest sequence in tokens, a whole number"):
        processor.max_length = value
    with pytest.raises(ValueError, match="give the longest sequence in tokens"):
        open_own(folder).max_seq_length = value
    assert processor.max_length == 100


def test_one_line_says_what_was_cut(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        cut(LlaveProcessor.from_pretrained(folder))
    assert [record.getMessage()[:46] for record in caplog.records] == [
        "row 0 of the batch is longer than max_length 1"
    ]
