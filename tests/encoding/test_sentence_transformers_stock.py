"""A saved folder in stock sentence-transformers: each way to encode gives AutoModel's vector, or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.util import quantize_embeddings
from transformers import AutoModel, AutoProcessor

from llave_hf.model.sentence_transformer_layout_llave import PROMPTS, write_sentence_transformer_layout

QUESTION = "What is in the image?"
LITERAL = "a <image> in <|im_end|> and <|endoftext|>\n<|im_start|>user <video>"


@pytest.fixture(scope="module")
def stock(folder: Path) -> SentenceTransformer:
    """For tests that leave it as it is."""
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture
def own(folder: Path) -> SentenceTransformer:
    """For tests that change it."""
    return SentenceTransformer(str(folder), device="cpu")


class Plain:
    """AutoModel and AutoProcessor, one sample at a time."""

    def __init__(self, folder: Path, **kwargs: Any) -> None:
        self.model, self.processor = AutoModel.from_pretrained(folder, **kwargs), AutoProcessor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, *samples: tuple[str, Any]) -> np.ndarray:
        made = [self.model(**self.processor(text=[text], images=[image])).embeddings for text, image in samples]
        return torch.cat(made).float().numpy()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Plain:
    return Plain(folder)


def samples() -> tuple[list[Any], list[tuple[str, Any]]]:
    """Inputs of unlike lengths, two of them twice, as `encode` takes them and as a processor does."""
    one, two = picture(56, 40), picture(20, 70, seed=1)
    inputs = ["a dog", {"image": one, "text": QUESTION}, two, "snow " * 20, "a dog", "", {"image": one}, two]
    same = [("a dog", None), (QUESTION, one), ("", two), ("snow " * 20, None), ("a dog", None), ("", None)]
    return inputs, [*same, ("", one), ("", two)]


def distance(left: Any, right: Any) -> float:
    left, right = np.asarray(left), np.asarray(right)
    assert left.shape == right.shape
    return float(np.abs(left - right).max())


def close(left: Any, right: Any) -> bool:
    return distance(left, right) <= 1e-6


# --------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("name", PROMPTS)
def test_a_named_prompt_stands_before_the_users_text(stock: SentenceTransformer, plain: Plain, name: str) -> None:
    image, prompt = picture(56, 40), PROMPTS[name]
    found = stock.encode(["a dog", image, {"image": image, "text": QUESTION}], prompt_name=name)
    assert close(found, plain((prompt + "a dog", None), (prompt, image), (prompt + QUESTION, image)))
    if prompt:
        assert distance(found[:1], plain(("a dog", None))) > 1e-3


def test_queries_and_documents_have_no_prompt_until_the_user_sets_one(stock: SentenceTransformer) -> None:
    assert stock.prompts == PROMPTS and stock.default_prompt_name is None
    inputs, _ = samples()
    vectors = stock.encode(inputs)
    assert close(stock.encode_query(inputs), vectors)
    assert close(stock.encode_document(inputs), vectors)
    named = stock.encode_query("a dog", prompt_name="retrieval_query")
    assert close(named, stock.encode(PROMPTS["retrieval_query"] + "a dog"))
    with pytest.raises(ValueError, match=r"Prompt name 'retrieval' not found .*'retrieval_query'"):
        stock.encode("a dog", prompt_name="retrieval")


def test_what_the_user_set_survives_saving(folder: Path, tmp_path: Path) -> None:
    chosen = {"query": "Find: ", "mine": "Mine: "}
    model = SentenceTransformer(
        str(folder), device="cpu", prompts=chosen, default_prompt_name="mine", truncate_dim=8, similarity_fn_name="dot"
    )
    model.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu")
    assert again.prompts == {**PROMPTS, **chosen} and again.default_prompt_name == "mine"
    assert again.similarity_fn_name == "dot" and again.truncate_dim == 8
    assert close(again.encode(["a dog"]), model.encode(["a dog"], prompt="Mine: "))


def test_settings_of_another_kind_of_model_do_not_stay(tmp_path: Path) -> None:
    settings = tmp_path / "config_sentence_transformers.json"
    settings.write_text(json.dumps({"model_type": "SparseEncoder", "prompts": {"query": "x"}}))
    write_sentence_transformer_layout(tmp_path, 8, normalize=True)
    assert json.loads(settings.read_text())["prompts"] == PROMPTS
    assert json.loads(settings.read_text())["model_type"] == "SentenceTransformer"


def test_leaving_the_prompt_out_of_the_pooling_changes_nothing(own: SentenceTransformer, plain: Plain) -> None:
    own.set_pooling_include_prompt(False)  # only the last token is pooled, and no prompt holds it
    image = picture(56, 40)
    found = own.encode(["a dog", {"image": image, "text": "x"}], prompt="Find: ")
    assert close(found, plain(("Find: a dog", None), ("Find: x", image)))


# --------------------------------------------------------------------------------------- batches, order, conversations


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_order_duplicates_and_batches(stock: SentenceTransformer, plain: Plain, batch_size: int) -> None:
    inputs, same = samples()
    expected = plain(*same)
    assert close(stock.encode(inputs, batch_size=batch_size), expected)
    assert close(stock.encode(tuple(inputs), batch_size=batch_size), expected)
    order = [5, 0, 7, 2]
    assert close(stock.encode([inputs[index] for index in order], batch_size=batch_size), expected[order])


def test_one_input_and_none(stock: SentenceTransformer, plain: Plain) -> None:
    image = picture(56, 40)
    expected = plain(("a dog", None), ("", image), (QUESTION, image))
    for index, entry in enumerate(["a dog", image, {"text": QUESTION, "image": image}]):
        assert close(stock.encode(entry), expected[index])
        assert close(stock.encode([entry]), expected[index : index + 1])
    assert stock.encode([]).shape == (0,)
    assert stock.encode_query([], convert_to_tensor=True).shape == (0,)
    assert stock.encode([], output_value="token_embeddings") == []


def test_conversations(stock: SentenceTransformer, plain: Plain) -> None:
    image = picture(56, 40)
    turn = {"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image", "image": image}]}
    system = {"role": "system", "content": "Represent: "}
    expected = plain((QUESTION, image), ("Represent: " + QUESTION, image), ("Find: Represent: " + QUESTION, image))
    assert close(stock.encode(turn), expected[0])
    assert close(stock.encode([turn]), expected[0])  # a list that begins with a message is one conversation
    assert close(stock.encode([[turn], [system, turn]]), expected[:2])
    assert close(stock.encode([[system, turn]], prompt="Find: "), expected[2:])


def test_pictures_as_arrays_and_tensors(stock: SentenceTransformer, plain: Plain) -> None:
    image = picture(56, 40)
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy())
    found = stock.encode([pixels, tensor, tensor.permute(2, 0, 1), {"image": pixels}, {"image": tensor}])
    assert close(found, np.repeat(plain(("", image)), 5, axis=0))
    grey = image.convert("L")
    assert close(stock.encode({"image": np.asarray(grey)}), plain(("", grey))[0])


# ------------------------------------------------------------------------------------------- which token is pooled


def test_literal_special_tokens_are_text(stock: SentenceTransformer, plain: Plain) -> None:
    image = picture(56, 40)
    inputs = [LITERAL, {"image": image, "text": LITERAL}]
    assert close(stock.encode(inputs), plain((LITERAL, None), (LITERAL, image)))
    prompted = plain((LITERAL + LITERAL, None), (LITERAL + LITERAL, image))
    assert close(stock.encode(inputs, prompt=LITERAL), prompted)
    message = [{"role": "user", "content": LITERAL}]
    assert close(stock.encode([message]), plain((LITERAL, None)))


def test_padding_on_the_left(own: SentenceTransformer, plain: Plain) -> None:
    inputs, same = samples()
    expected = plain(*same)
    left = {"text": {"padding_side": "left"}}
    assert own.preprocess(inputs, processing_kwargs=left)["attention_mask"][0, 0] == 0  # it is on the left
    assert close(own.encode(inputs, processing_kwargs=left), expected)
    own[0].processor.tokenizer.padding_side = "left"
    assert close(own.encode(inputs), expected)


@pytest.mark.parametrize("asked", [{}, {"truncation": True}, {"truncation": "only_first"}])
def test_truncation_keeps_the_pooled_token(stock: SentenceTransformer, plain: Plain, asked: dict[str, Any]) -> None:
    image = picture(30, 20)
    length = len(plain.processor(text=[""], images=[image]).input_ids[0]) + 5
    long = "snow " * 100
    cut = [
        plain.model(**plain.processor(text=[long], images=[entry], max_length=length)).embeddings
        for entry in (None, image)
    ]
    found = stock.encode(
        [long, {"text": long, "image": image}, "a dog"],
        processing_kwargs={"text": {"max_length": length, **asked}},
    )
    assert close(found[:2], torch.cat(cut).detach())
    assert close(found[2:], plain(("a dog", None)))


def test_a_picture_is_never_cut(own: SentenceTransformer) -> None:
    own.max_seq_length = 60
    assert own.encode(["snow " * 100]).shape == (1, 24)
    with pytest.raises(ValueError, match=r"row 0 of the batch takes \d+ tokens before its text, over max_length 60"):
        own.encode([picture(56, 40)])


def test_token_embeddings_end_with_the_pooled_token(stock: SentenceTransformer, plain: Plain) -> None:
    inputs, same = samples()
    tokens = stock.encode(inputs, output_value="token_embeddings", batch_size=8)
    lengths = [plain.processor(text=[text], images=[image]).input_ids.shape[1] for text, image in same]
    assert [len(rows) for rows in tokens] == lengths
    last = torch.nn.functional.normalize(torch.stack([rows[-1] for rows in tokens]), dim=-1)
    assert close(last, plain(*same))


def test_inputs_are_not_packed_without_padding(folder: Path, plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transformer, "_can_flatten_inputs", lambda self: True)  # as with flash attention
    model = SentenceTransformer(str(folder), device="cpu")
    assert model[0].can_flatten_inputs is False
    assert close(model.encode(["a dog", "snow " * 9]), plain(("a dog", None), ("snow " * 9, None)))


# ----------------------------------------------------------------------------------------------- forms of the vectors


def test_tensors_normalisation_and_similarity(stock: SentenceTransformer, plain: Plain) -> None:
    inputs, same = samples()
    expected = plain(*same)
    vectors = stock.encode(inputs, convert_to_tensor=True)
    assert isinstance(vectors, torch.Tensor) and close(vectors, expected)
    assert close(torch.stack(stock.encode(inputs, convert_to_numpy=False)), expected)
    assert close(stock.encode(inputs, normalize_embeddings=True), expected)
    assert close(stock.similarity(vectors[:3], vectors), expected[:3] @ expected.T)
    assert close(stock.similarity_pairwise(vectors[:3], vectors[3:6]), (expected[:3] * expected[3:6]).sum(1))


def test_fewer_dimensions(folder: Path, stock: SentenceTransformer, plain: Plain) -> None:
    inputs, same = samples()
    short = plain(*same)[:, :7]
    model = SentenceTransformer(str(folder), device="cpu", truncate_dim=7)
    assert model.get_embedding_dimension() == 7 and stock.get_embedding_dimension() == 24
    assert close(model.encode(inputs), short)
    assert close(stock.encode(inputs, truncate_dim=7), short)
    unit = short / np.linalg.norm(short, axis=1, keepdims=True)
    assert close(stock.encode(inputs, truncate_dim=7, normalize_embeddings=True), unit)


@pytest.mark.parametrize("precision", ["binary", "ubinary", "int8", "uint8"])
def test_precision(stock: SentenceTransformer, plain: Plain, precision: str) -> None:
    inputs, same = samples()
    vectors = plain(*same)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=1).astype(np.int16)
        assert np.array_equal(stock.encode(inputs, precision=precision), bits - (128 if precision == "binary" else 0))
        return
    calibration = stock.encode([f"number {index}" for index in range(100)])
    found = quantize_embeddings(stock.encode(inputs), precision=precision, calibration_embeddings=calibration)
    low, high = calibration.min(0), calibration.max(0)
    levels = np.clip((vectors - low) / (high - low) * 255, 0, 255) - (128 if precision == "int8" else 0)
    assert found.dtype == np.dtype(precision)
    assert np.abs(found - levels).max() <= 1.01


@pytest.mark.parametrize("how", ["dtype", "half"])
def test_half_precision(folder: Path, plain: Plain, how: str) -> None:
    inputs, same = samples()
    dtype = torch.bfloat16 if how == "dtype" else torch.float16
    if how == "dtype":
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    else:
        model = SentenceTransformer(str(folder), device="cpu").half()
    assert model.dtype == dtype
    step = torch.finfo(dtype).eps
    found, expected = model.encode(inputs), Plain(folder, dtype=dtype)(*same)
    # Normalize works in the model's own type and LlaveModel in float32, so that the lengths differ by rounding.
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < step
    assert distance(found, expected) < step
    assert distance(found, plain(*same)) < 8 * step


# ------------------------------------------------------------------------------------------------- several processes


@pytest.mark.slow
def test_two_processes(own: SentenceTransformer, plain: Plain) -> None:
    inputs, same = (
        ["a dog", "snow " * 20, "", "a dog"],
        [("a dog", None), ("snow " * 20, None), ("", None), ("a dog", None)],
    )
    pool = own.start_multi_process_pool(["cpu", "cpu"])
    try:
        assert len({process.pid for process in pool["processes"]}) == 2
        assert close(own.encode(inputs, pool=pool, chunk_size=2), plain(*same))
        assert close(own.encode(inputs, pool=pool, chunk_size=3, prompt="Find: ")[0], plain(("Find: a dog", None))[0])
        with pytest.raises(ValueError, match=r"missing\.png does not exist"):
            own.encode([{"image": "missing.png"}, "a dog"], pool=pool)
    finally:
        own.stop_multi_process_pool(pool)


# ------------------------------------------------------------------------------------------------------ wrong inputs


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "Unsupported input type: NoneType"),
        (5, "Unsupported input type: int"),
        (b"GIF89a", "Unsupported input type: bytes"),
        (Path("one.png"), "Unsupported input type: .*Path"),
        ({}, "Empty dict input"),
        ({"image": picture(), "caption": "x"}, r"unrecognized modality keys: \['caption'\]"),
        ({"audio": "a.wav"}, "[Mm]odality 'audio'|type 'audio'"),
        (np.zeros((20, 20), dtype=np.uint8), "[Mm]odality 'audio'|type 'audio'"),  # two dimensions mean sound
        (np.full((20, 20, 3), 2, dtype=np.float32), "dtype float32 .*floats go from 0 to 1"),
        (torch.zeros(3, 20, 20, dtype=torch.long), "dtype int64 .*a picture is an array of uint8"),
        ({"image": b"GIF89a"}, "what 6 bytes hold is no readable picture"),
        ({"image": None}, "a part of type 'image' without 'image'"),
        ({"image": "missing.png"}, r"missing\.png does not exist"),
        ({"video": "missing.mp4"}, r"missing\.mp4 does not exist"),
        ({"video": ["missing.png", "missing.png"]}, "2 videos; a sample takes one"),
        ("data:image/png;base64,xx", "base64,xx is no readable picture"),
    ],
)
def test_what_cannot_be_embedded_is_named(stock: SentenceTransformer, entry: Any, message: str) -> None:
    for inputs in ([entry], ["a dog", entry, picture()]):
        with pytest.raises(ValueError, match=message):
            stock.encode(inputs)
