"""What stock sentence-transformers loses, misreads or cannot send to another process, mended or refused here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoProcessor

QUESTION = "What is in the image?"


@pytest.fixture(scope="module")
def stock(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


@torch.no_grad()
def expected(folder: Path, *samples: tuple[str, Any]) -> np.ndarray:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    made = [model(**processor(text=[text], images=[image])).embeddings for text, image in samples]
    return torch.cat(made).numpy()


def close(left: Any, right: Any) -> bool:
    return bool(np.abs(np.asarray(left) - np.asarray(right)).max() <= 1e-6)


def turn(*content: Any, role: str = "user") -> dict[str, Any]:
    parts = [{"type": "text", "text": x} if isinstance(x, str) else {"type": "image", "image": x} for x in content]
    return {"role": role, "content": parts}


def test_a_conversation_among_other_inputs_keeps_its_content(stock: SentenceTransformer, folder: Path) -> None:
    image = picture(56, 40)
    conversation = [turn("Represent: ", role="system"), turn(image, QUESTION)]
    inputs = ["a dog", conversation, image, {"role": "user", "content": "chat"}, {"image": image, "text": "x"}]
    samples = [("a dog", None), ("Represent: " + QUESTION, image), ("", image), ("chat", None), ("x", image)]
    assert close(stock.encode(inputs), expected(folder, *samples))
    prompted = [("Find: " + text, picture) for text, picture in samples]
    assert close(stock.encode(inputs, prompt="Find: "), expected(folder, *prompted))


@pytest.mark.parametrize("entry", [("a dog", "a cat"), ["a dog", "a cat"], ("a dog", picture())])
def test_a_pair_is_refused(stock: SentenceTransformer, entry: Any) -> None:
    for inputs in ([entry], ["a dog", entry]):
        with pytest.raises(ValueError, match=r"conversation \d: an input is a pair of a query and a doc"):
            stock.encode(inputs)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"text": None, "image": picture()}, "NoneType as 'text', not a string"),
        ({"text": 5}, "int as 'text', not a string"),
        ([turn("x"), {"role": "user"}], "message 1 has NoneType as 'content'"),
        ([{"role": "user", "content": picture()}], "message 0 has Image as 'content'"),
        ([{"role": "user", "content": ["x"]}], "message 0 has a part of type None"),
        ([{"role": "user", "content": [{"type": "text"}]}], "NoneType as 'text'"),
        ([turn("x"), turn("y", role="assistant")], "the role 'assistant'"),
        ({"video": ["missing.png", "missing.png"]}, "2 videos; .* paths of pictures that exist"),
    ],
)
def test_broken_messages_are_named(stock: SentenceTransformer, entry: Any, message: str) -> None:
    for inputs in ([entry], ["a dog", entry, picture()]):
        with pytest.raises(ValueError, match=rf"conversation \d.*{message}"):
            stock.encode(inputs)


def test_a_prompt_that_is_no_string_is_not_dropped(stock: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="int as 'text', not a string; leave the text"):
        stock.encode([picture()], prompt=5)


def test_a_message_that_is_none_is_named(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match="message 1 is str, not a mapping with 'role' and 'content'"):
        processor.apply_chat_template([turn("x"), "y"], tokenize=True)


@pytest.mark.parametrize("name", ["missing.png", "my photos/one.JPG", "clip.webm", "bark.wav"])
def test_a_text_that_reads_like_a_file_name_is_told(
    stock: SentenceTransformer, folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = stock.encode([name, "a dog", "It ends in .png", "see one.png now"])
    assert close(found[:1], expected(folder, (name, None)))
    assert [record.getMessage() for record in caplog.records if "names of files" in record.getMessage()] == [
        f"1 texts of the batch read like names of files ({name!r}) and are embedded as text: no such file exists, or "
        "sentence-transformers does not know its kind. Where the file is meant, pass {'image': path} or {'video': "
        "path}."
    ]


def test_settings_of_the_template_are_not_ignored(stock: SentenceTransformer) -> None:
    assert stock.encode("x", processing_kwargs={"chat_template": {"add_generation_prompt": True}}).shape == (24,)
    with pytest.raises(TypeError, match=r"apply_chat_template\(tokenize=True\) got arguments .*: enable_thinking"):
        stock.encode("x", processing_kwargs={"chat_template": {"enable_thinking": True}})


def test_a_folder_without_its_module_files_is_refused(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "modules.json").unlink()
    model = SentenceTransformer(str(bare), device="cpu")
    for inputs in (["a dog"], ["a dog", picture()]):  # mean pooling, were it not refused
        with pytest.raises(ValueError, match=r"without its modules\.json .* would pool as it guesses"):
            model.encode(inputs)
    by_hand = Transformer(str(bare), processing_kwargs={"text": {"truncation": False}})
    mended = SentenceTransformer(modules=[by_hand, Pooling(24, "lasttoken")], device="cpu")
    assert close(mended.encode(["a dog"], normalize_embeddings=True), expected(folder, ("a dog", None)))
    AutoModel.from_pretrained(bare).save_pretrained(bare)
    assert close(SentenceTransformer(str(bare), device="cpu").encode(["a dog"]), expected(folder, ("a dog", None)))


@pytest.mark.slow
def test_two_processes_embed_pictures(folder: Path) -> None:
    model, image = SentenceTransformer(str(folder), device="cpu"), picture(56, 40)
    inputs = ["a dog", {"image": image, "text": QUESTION}, image, picture(20, 70, seed=1)]
    samples = expected(folder, ("a dog", None), (QUESTION, image), ("", image), ("", picture(20, 70, seed=1)))
    assert close(model.encode(inputs), samples)  # a model that has seen a picture can still be sent
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        assert close(model.encode(inputs, pool=pool, chunk_size=1), samples)
    finally:
        model.stop_multi_process_pool(pool)
