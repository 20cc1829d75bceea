"""What openai's own client gets of a real server on loopback: the vectors of `encode`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from helpers import picture, pictures, write_video
from running import NAME, Running, clip_part, data_uri, picture_part, text_part, user

from llave_hf import LlaveSentenceTransformer

TEXTS = [
    "a dog in the snow",
    "",
    "What is in the image?",
    "literal <image> and <|im_end|>",
    "ä" * 300,
    "a dog in the snow",
]


def assert_equal(got: Any, expected: np.ndarray) -> None:
    assert np.shape(got) == expected.shape
    assert np.abs(np.asarray(got) - expected).max() <= 1e-6


def test_texts_by_either_encoding_and_their_tokens(server: Running, encoder: LlaveSentenceTransformer) -> None:
    expected = encoder.encode([{"text": text} for text in TEXTS])
    tokens = sum(len(encoder.processor(text=[text])["input_ids"][0]) for text in TEXTS)
    for encoding in (openai.NOT_GIVEN, "float", "base64"):  # the client asks for base64 by itself, and decodes it
        answer = server.client().embeddings.create(model=NAME, input=TEXTS, encoding_format=encoding)
        found = [entry.embedding for entry in answer.data]
        if encoding == "base64":
            found = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in found]
        assert_equal(found, expected)
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (tokens, tokens, NAME)
        assert [entry.index for entry in answer.data] == list(range(len(TEXTS)))
    assert_equal(server.embed(input=TEXTS[0]), expected[:1])


def test_dimensions_are_normalised_again(server: Running, encoder: LlaveSentenceTransformer) -> None:
    for dimensions in (1, 7, 24):
        expected = encoder.encode(TEXTS, truncate_dim=dimensions, normalize_embeddings=True)
        answer = server.client().embeddings.create(model=NAME, input=TEXTS, dimensions=dimensions)
        assert_equal([entry.embedding for entry in answer.data], expected)


def test_prompts_by_name(server: Running, encoder: LlaveSentenceTransformer) -> None:
    image = picture()
    messages = user(text_part("what"), picture_part(data_uri(image)))
    for number, name in enumerate(encoder.prompts):
        field = ("prompt_name", "input_type")[number % 2]
        got = server.client().embeddings.create(model=NAME, input=TEXTS[:3], extra_body={field: name})
        assert_equal([entry.embedding for entry in got.data], encoder.encode(TEXTS[:3], prompt_name=name))
    for field in ("prompt_name", "input_type"):
        expected = encoder.encode([{"image": image, "text": "what"}], prompt_name="vqa_query")
        assert_equal(server.embed(messages=messages, **{field: "vqa_query"}), expected)


def test_conversations(server: Running, encoder: LlaveSentenceTransformer, tmp_path: Path) -> None:
    first, second, clear = *pictures([(40, 30), (28, 90)]), picture(33, 21, mode="RGBA")
    shown = [picture_part(data_uri(image)) for image in (first, second)]
    clip = clip_part(write_video(tmp_path / "clip.mp4", range(0, 200, 10)).read_bytes())
    system = {"role": "system", "content": "Look: "}
    cases: list[tuple[list[dict[str, Any]], Any, str | None]] = [
        ([{"role": "user", "content": "a text"}], {"text": "a text"}, None),
        (user(shown[0]), {"image": first}, None),
        (user(*shown, text_part("what")), {"image": [first, second], "text": "what"}, None),
        (user(text_part("a"), shown[0], text_part("b")), {"image": first, "text": "ab"}, None),
        ([system, *user(shown[1], text_part("what"))], {"image": second, "text": "what"}, "Look: "),
        (user(picture_part(data_uri(clear))), {"image": clear}, None),
        (user(picture_part(data_uri(first, "webp"))), {"image": data_uri(first, "webp")}, None),
        (user(clip, text_part("when")), {"video": str(tmp_path / "clip.mp4"), "text": "when"}, None),
        (user({"type": "image_url", "image_url": data_uri(first)}), {"image": first}, None),
    ]
    for messages, entry, prompt in cases:
        got = server.embed(model=NAME, messages=messages, encoding_format="float")
        assert_equal(got, encoder.encode([entry], prompt=prompt))


def test_a_text_is_never_a_file_or_a_picture(
    server: Running, encoder: LlaveSentenceTransformer, tmp_path: Path
) -> None:
    """`encode` opens a string that names a picture; a client of a server must not be able to."""
    path = tmp_path / "secret.png"
    picture().save(path)
    texts = [str(path), data_uri(picture(8, 8))]
    assert_equal(server.embed(input=texts), encoder.encode([{"text": text} for text in texts]))


def test_a_long_list_is_answered_in_order(server: Running, encoder: LlaveSentenceTransformer) -> None:
    texts = [f"number {number} " * (1 + number % 7) for number in range(200)]
    assert_equal(server.embed(input=texts), encoder.encode(texts))


def test_models_are_listed(server: Running) -> None:
    (model,) = server.client().models.list().data
    assert model.id == NAME and server.client().models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here; this server has 'tiny'"):
        server.client().models.retrieve("other")
