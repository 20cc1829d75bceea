from __future__ import annotations

from pathlib import Path

import pytest
from helpers import picture, tiny_model
from look_data import MARK, look, notes, problems, row, task, write_rows

from llave_hf.data.look.prompts import DefaultPrompts, ModelPrompts, Piece
from llave_hf.data.samples import Sample
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.model.prompt_llave import PromptStyle


@pytest.fixture(scope="module")
def processor() -> LlaveProcessor:
    return tiny_model(processor={"max_length": 120})[1]


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    picture(40, 30).save(tmp_path / "a.png")
    return Sample("\nIs <image> or <|im_end|> a text?\n", ("a.png",), media_root=str(tmp_path))


def test_without_a_model_the_prompt_is_the_chat_template(processor: LlaveProcessor, sample: Sample) -> None:
    prompt = DefaultPrompts().of(sample)
    parts = [{"type": "image"}, {"type": "text", "text": sample.text}]
    assert str(prompt) == processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert [piece for piece in prompt.pieces if piece.kind == "mark"] == [Piece("mark", "<image>", 0)]
    assert [piece.text for piece in prompt.pieces if piece.kind == "text"] == [sample.text]
    assert prompt.tokens is None


def test_a_style_that_trims_does_so_here_too() -> None:
    prompt = DefaultPrompts(PromptStyle(system=None, trim=True)).of(Sample("  hello \n"))
    assert [piece.text for piece in prompt.pieces if piece.kind == "text"] == ["hello"]


def test_a_model_s_processor_counts(processor: LlaveProcessor, sample: Sample) -> None:
    prompt = ModelPrompts(processor, "tiny").of(sample)
    made = processor(text=[sample.text], images=[[picture(40, 30)]])
    ids = made["input_ids"][0].tolist()
    assert prompt.tokens == len(ids) and prompt.lost == 0
    (mark,) = [piece for piece in prompt.pieces if piece.kind == "mark"]
    assert mark.times == ids.count(processor.image_token_id) > 1
    assert [piece.text for piece in prompt.pieces if piece.kind == "text"] == [sample.text]
    assert "".join(piece.text for piece in prompt.pieces if piece.kind != "mark").startswith("<|im_start|>system\n")


def test_a_text_alone_is_the_user_s(processor: LlaveProcessor) -> None:
    prompt = ModelPrompts(processor, "tiny").of(Sample("user\nhello"))
    assert [piece.text for piece in prompt.pieces if piece.kind == "text"] == ["user\nhello"]
    assert str(prompt) == str(DefaultPrompts().of(Sample("user\nhello")))


def test_texts_beyond_the_model_s_length_are_told(
    processor: LlaveProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path, "Long", [row("short", "word " * 400), row("a", "b")])
    looked = look(tmp_path, prompts=ModelPrompts(processor, "tiny"))
    tokens = task(looked, "Long").tokens
    assert (tokens.samples, tokens.cut) == (4, 1)
    assert tokens.by_role["positive"].most == 120
    assert "1 of 4 samples counted are longer than the model's max_length" in notes(looked)
    assert "were left out" not in caplog.text
    (shown,) = [one for one in task(looked, "Long").pairs[0].samples if one.role == "positive"]
    assert shown.prompt is not None and shown.prompt.lost > 0


def test_pictures_longer_than_the_model_are_a_problem(tmp_path: Path) -> None:
    short = tiny_model(processor={"max_length": 30})[1]
    write_rows(tmp_path, "Big", [row(f"{MARK}a", "b", qry_image_path="images/2.png")])
    looked = look(tmp_path, prompts=ModelPrompts(short, "tiny"))
    assert "1 samples have no prompt: row 0: " in problems(looked) and "over max_length 30" in problems(looked)
    (shown, _) = task(looked, "Big").pairs[0].samples
    assert shown.prompt is None and "over max_length 30" in (shown.fault or "")
