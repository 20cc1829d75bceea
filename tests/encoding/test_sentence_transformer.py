"""LlaveSentenceTransformer: stock's vectors, each distinct input once, prepared ahead within bounds."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import KINDS, SHARING, save_backbone
from helpers import picture, pictures, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

import llave_hf.encoding.engine as engine
import llave_hf.encoding.lean_decoding as lean_decoding
from llave_hf import LlaveModel, LlaveProcessor, LlaveSentenceTransformer
from llave_hf.encoding.content_keys import ContentKeys
from llave_hf.encoding.plan import TokenBudget, estimate_tokens
from llave_hf.encoding.prefetch import prefetch
from llave_hf.encoding.sentence_transformer import load_encoder
from llave_hf.encoding.shared_prefix import common_prefix
from llave_hf.model.media_llave import MediaError


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media")
    picture(56, 40).save(path / "one.png")
    picture(20, 70, seed=1).save(path / "two.png")
    shutil.copy(path / "one.png", path / "one_again.png")
    write_video(path / "clip.mp4", levels=range(0, 200, 10))
    return path


PROMPTS = {"query": "Find: ", "document": "Represent: "}


@pytest.fixture(scope="module")
def stock(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", prompts=PROMPTS)


@pytest.fixture(scope="module")
def ours(folder: Path) -> LlaveSentenceTransformer:
    return LlaveSentenceTransformer(str(folder), device="cpu", prompts=PROMPTS)


@pytest.fixture
def rows(ours: LlaveSentenceTransformer) -> Iterator[list[tuple[int, int]]]:
    """(rows, padded tokens) of each batch that the model gets."""
    seen: list[tuple[int, int]] = []
    handle = ours[0].register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0]["input_ids"].shape)))
    yield seen
    handle.remove()


def conversation(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": picture(9, 40)}, {"type": "text", "text": text}]}]


def every_kind(media: Path) -> list[Any]:
    one, two, clip = (str(media / name) for name in ("one.png", "two.png", "clip.mp4"))
    return [
        "a dog",
        "",
        "a much longer text with a literal <image> in it, " * 5,
        picture(56, 40),
        picture(33, 50, mode="P"),
        np.asarray(picture(30, 40)),
        torch.from_numpy(np.array(picture(31, 40))).permute(2, 0, 1),
        one,
        {"image": one, "text": "What is in the image?"},
        {"text": "Which differs?", "image": [one, two]},
        {"image": pictures([(56, 40), (20, 70)])},
        {"video": clip},
        {"video": pictures([(30, 20)] * 3), "text": "a clip"},
        {"text": "text in a mapping"},
        *[f"text number {number}" for number in range(9)],
        "a dog",
        one,
    ]


def close(left: Any, right: Any) -> bool:
    left, right = np.asarray(left), np.asarray(right)
    return left.shape == right.shape and bool(np.abs(left.astype(np.float64) - right).max(initial=0) <= 1e-6)


# ------------------------------------------------------------------------------------------------ the same vectors


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 1},
        {"batch_size": 5},
        {"prompt": "Represent: "},
        {"prompt_name": "query"},
        {"truncate_dim": 8},
        {"truncate_dim": 8, "normalize_embeddings": True},
        {"processing_kwargs": {"text": {"max_length": 60}}},
        {"convert_to_tensor": True},
        {"show_progress_bar": True},
    ],
    ids=str,
)
def test_every_option_gives_the_stock_vectors(
    options: dict[str, Any], stock: SentenceTransformer, ours: LlaveSentenceTransformer, media: Path
) -> None:
    inputs = every_kind(media)
    if "processing_kwargs" in options:  # pictures do not fit into so few tokens
        inputs = [entry for entry in inputs if isinstance(entry, str) and not entry.endswith(".png")]
    expected, got = stock.encode(inputs, **options), ours.encode(inputs, **options)
    assert type(got) is type(expected)
    assert got.dtype == expected.dtype
    assert close(got, expected)


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {"max_tokens": 300}, {"num_workers": 0}, {"num_workers": 3}])
def test_how_it_is_split_changes_nothing(
    options: dict[str, Any], stock: SentenceTransformer, ours: LlaveSentenceTransformer, media: Path
) -> None:
    assert close(ours.encode(every_kind(media), **options), stock.encode(every_kind(media)))


def test_queries_documents_and_single_inputs(
    stock: SentenceTransformer, ours: LlaveSentenceTransformer, media: Path
) -> None:
    inputs = every_kind(media)
    assert close(ours.encode_query(inputs), stock.encode_query(inputs))
    assert close(ours.encode_document(inputs, batch_size=2), stock.encode_document(inputs))
    assert not close(ours.encode_query("a dog"), ours.encode_document("a dog"))
    for entry in inputs[:4]:
        assert close(ours.encode(entry), stock.encode(entry))
    vectors = ours.encode(inputs)
    assert close(ours.similarity(vectors, vectors), stock.similarity(vectors, vectors))


def test_precisions_and_other_outputs(stock: SentenceTransformer, ours: LlaveSentenceTransformer) -> None:
    inputs = ["a dog", "a longer text", picture()]
    binary = ours.encode(inputs, precision="binary")
    assert binary.dtype == np.int8
    assert (binary == stock.encode(inputs, precision="binary")).all()
    got, expected = (model.encode(inputs, output_value="token_embeddings") for model in (ours, stock))
    assert all(close(left, right) for left, right in zip(got, expected, strict=True))
    assert all(
        close(*pair) for pair in zip(ours.encode(inputs, convert_to_numpy=False), ours.encode(inputs), strict=True)
    )
    assert ours.encode([]).shape == stock.encode([]).shape


def test_a_conversation_among_other_inputs(stock: SentenceTransformer, ours: LlaveSentenceTransformer) -> None:
    mixed = ["a dog", conversation("one"), picture(), conversation("two"), {"role": "user", "content": "three"}]
    alone = [[entry] if isinstance(entry, dict) else entry for entry in mixed]
    expected = [stock.encode([entry])[0] for entry in alone]
    assert close(ours.encode(mixed), expected)
    outputs = ours.encode(mixed, output_value=None)  # stock's own loop: one call of preprocess for all five
    assert close([output["sentence_embedding"] for output in outputs], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone(kind: str, media: Path, tmp_path: Path) -> None:
    save_backbone(tmp_path / "backbone", kind)
    LlaveModel.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    LlaveProcessor.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    ours = LlaveSentenceTransformer(str(tmp_path / "model"), device="cpu")
    stock = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    inputs = every_kind(media)
    batches: list[int] = []
    ours[0].register_forward_pre_hook(lambda module, args: batches.append(args[0]["input_ids"].numel()))
    assert close(ours.encode(inputs), stock.encode(inputs, batch_size=2))
    texts = [f"text {number}" for number in range(8)]
    ours.encode(texts)  # tries both ways
    batches.clear()
    assert close(ours.encode(texts), stock.encode(texts))
    fewer = sum(batches) < stock.preprocess(texts)["input_ids"].numel()
    assert fewer == (kind in SHARING)  # the shared tokens were left out


@pytest.mark.slow
def test_a_pool_of_processes(stock: SentenceTransformer, ours: LlaveSentenceTransformer, media: Path) -> None:
    inputs = every_kind(media)
    got = ours.encode(inputs, device=["cpu", "cpu"], chunk_size=9, max_tokens=300)
    assert close(got, stock.encode(inputs))


def test_training_mode_hooks_and_folders_survive(ours: LlaveSentenceTransformer, tmp_path: Path) -> None:
    texts = ["a dog"] + [f"text {n}" for n in range(8)]
    for _ in range(2):
        before = ours.encode(texts)
    decoder = ours.transformers_model.backbone.language_model
    assert len(decoder._forward_pre_hooks) == len(decoder.layers[-1].mlp._forward_hooks) == 1
    tokens: list[int] = []
    handle = decoder.layers[-1].mlp.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    assert close(SentenceTransformer.encode(ours, texts, output_value=None)[0]["sentence_embedding"], before[0])
    handle.remove()
    assert max(tokens) > 1  # who calls the model otherwise sees it whole
    ours.save_pretrained(str(tmp_path))
    assert close(SentenceTransformer(str(tmp_path), device="cpu").encode("a dog"), before[0])


def test_two_threads_may_encode_at_once(ours: LlaveSentenceTransformer, media: Path) -> None:
    lists = [every_kind(media)[offset:] for offset in range(4)]
    expected = [ours.encode(entries) for entries in lists]
    got: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: got.update({n: ours.encode(lists[n], max_tokens=200)})) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(close(got[number], expected[number]) for number in range(4))


def test_a_folder_that_is_no_llave_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\n")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=6, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert', not 'llave'"):
        LlaveSentenceTransformer(str(tmp_path), device="cpu")


def test_load_encoder_takes_the_fast_one(folder: Path) -> None:
    assert isinstance(load_encoder(folder, device="cpu"), LlaveSentenceTransformer)


# -------------------------------------------------------------------------------------------- each distinct input once


def test_repeats_are_encoded_once(ours: LlaveSentenceTransformer, media: Path, rows: list[tuple[int, int]]) -> None:
    one = str(media / "one.png")
    inputs = [
        *["a dog", "a dog", {"text": "a dog"}],  # a text and a mapping are told apart, at the cost of a row
        *[picture(), picture(), np.asarray(picture())],
        *[one, one, str(media / "one_again.png"), {"image": one}],
        *[{"image": one, "text": "x"}, {"text": "x", "image": str(media / "one_again.png")}],
        *[{"image": pictures([(30, 40), (20, 20)])}, {"image": pictures([(30, 40), (20, 20)])}],
        *[{"video": pictures([(30, 20)] * 3)}, {"video": pictures([(30, 20)] * 3)}],
        *[conversation("x"), conversation("x"), conversation("y")],
    ]
    vectors = ours.encode(inputs)
    assert sum(count for count, _ in rows) == 11
    rows.clear()
    assert close(vectors, np.stack([ours.encode([entry])[0] for entry in inputs]))


def test_what_differs_is_told_apart(media: Path) -> None:
    keys = ContentKeys()
    grey = np.zeros((4, 6), dtype=np.uint8)
    entries = [
        *["a", "b", str(media / "one.png"), str(media / "two.png"), picture(), picture(seed=1), picture(mode="L")],
        *[grey, grey.reshape(6, 4), grey.astype(np.int8), {"text": "a"}, {"image": "a"}, ["a"], ["a", "a"], None],
    ]
    assert len({keys.key(entry) for entry in entries}) == len(entries)
    assert keys.key(str(media / "one_again.png")) == keys.key(media / "one.png")


def test_palettes_count(media: Path) -> None:
    left = picture(mode="P")
    right = left.copy()
    right.putpalette(list(reversed(left.getpalette() or [])))
    assert ContentKeys().key(left) != ContentKeys().key(right)
    assert ContentKeys().key(left) == ContentKeys().key(left.copy())


# ------------------------------------------------------------------------------------------------------- batches


def test_batches_hold_the_budget(ours: LlaveSentenceTransformer, media: Path, rows: list[tuple[int, int]]) -> None:
    ours.encode(every_kind(media), max_tokens=200)
    assert all(count * length <= 200 for count, length in rows if count > 1)
    assert any(count > 1 for count, _ in rows)
    rows.clear()
    ours.encode(every_kind(media), batch_size=3)
    assert max(count for count, _ in rows) == 3
    for options in ({"max_tokens": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be a positive integer"):
            ours.encode(["a dog"], **options)


@given(st.lists(st.integers(1, 50)), st.integers(1, 120), st.integers(1, 9))
def test_a_token_budget_keeps_order_and_bounds(lengths: list[int], max_tokens: int, max_rows: int) -> None:
    batches = list(TokenBudget(max_tokens, max_rows).batches((length, length) for length in lengths))
    assert [length for batch in batches for length in batch] == lengths
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or max(batch) * len(batch) <= max_tokens


def test_estimates_are_exact_enough_to_sort(ours: LlaveSentenceTransformer, media: Path) -> None:
    for entry in [picture(56, 40), picture(20, 70), str(media / "one.png"), np.asarray(picture(90, 30))]:
        real = ours.preprocess([entry])["input_ids"].shape[1]
        assert abs(estimate_tokens(entry, ours.processor) - real) <= 20
    both = {"image": pictures([(56, 40), (56, 40)]), "text": "x" * 400}
    assert estimate_tokens(both, ours.processor) > 2 * estimate_tokens(picture(56, 40), ours.processor)
    assert estimate_tokens(conversation("x" * 400), ours.processor) > estimate_tokens(picture(9, 40), ours.processor)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1), min_size=1), st.sets(st.integers(0, 2), max_size=1))
@settings(deadline=None)
def test_a_common_prefix_is_common(rows: list[list[int]], stops: set[int]) -> None:
    prefix = common_prefix([torch.tensor(row) for row in rows], stops).tolist()
    assert all(row[: len(prefix)] == prefix and len(row) > len(prefix) for row in rows)
    assert not stops & set(prefix)
    longer = [row[: len(prefix) + 1] for row in rows]
    assert (
        any(len(row) == len(prefix) + 1 for row in rows)
        or longer != [longer[0]] * len(rows)
        or stops & {longer[0][-1]}
    )


def test_shared_tokens_are_run_once(ours: LlaveSentenceTransformer, rows: list[tuple[int, int]]) -> None:
    texts = [f"text {number}" for number in range(8)]
    whole = ours.preprocess(texts, prompt="Represent: ")["input_ids"].numel()
    ours.encode(texts, prompt="Represent: ")
    assert sum(count * length for count, length in rows) < whole / 2


# ------------------------------------------------------------------------------------------------ ahead, in threads


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_picture_is_named_and_ends_it(
    num_workers: int, ours: LlaveSentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    seen = []
    real = LlaveSentenceTransformer.preprocess
    monkeypatch.setattr(
        LlaveSentenceTransformer, "preprocess", lambda *args, **kwargs: (seen.append(1), real(*args, **kwargs))[1]
    )
    inputs = [picture(60, 60, seed=n) for n in range(40)]
    inputs.insert(3, str(tmp_path / "bad.png"))
    with pytest.raises(MediaError, match=r"^input 3: .*bad\.png is no readable picture"):
        ours.encode(inputs, num_workers=num_workers, max_tokens=100)
    assert threading.active_count() == 1 or not [t for t in threading.enumerate() if "llave-prefetch" in t.name]
    bad_first = [str(tmp_path / "bad.png"), *[picture(2, 2, seed=n) for n in range(60)]]
    seen.clear()
    with pytest.raises(MediaError, match=r"^input 0: "):
        ours.encode(bad_first, num_workers=num_workers, max_tokens=100)
    assert len(seen) < 30  # the rest was cancelled


def test_a_bad_input_of_any_kind_is_named(ours: LlaveSentenceTransformer) -> None:
    with pytest.raises(ValueError, match=r"^input 2: "):
        ours.encode(["a", "b", {"sound": "c"}])
    with pytest.raises(ValueError, match=r"^input 1: "):
        ours.encode(["a", np.zeros((0, 4, 3), dtype=np.uint8)])


def test_few_prepared_pictures_wait(ours: LlaveSentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    made, taken, most = [0], [0], [0]
    real_split, real_join = engine.split_rows, lean_decoding.join_rows

    def split(*args: Any) -> Any:
        made[0] += 1
        most[0] = max(most[0], made[0] - taken[0])
        return real_split(*args)

    def join(rows: Any, *args: Any) -> Any:
        time.sleep(0.01)
        taken[0] += len(rows)
        return real_join(rows, *args)

    monkeypatch.setattr(engine, "split_rows", split)
    monkeypatch.setattr(lean_decoding, "join_rows", join)
    ours.encode(pictures([(20, 20)] * 60), num_workers=2, batch_size=4)
    assert taken[0] == 60
    assert most[0] <= engine.ROWS_AHEAD * 2 + 4 + 1  # waiting, in the batch, and the one that closes it


def test_prefetch_keeps_order_and_bounds() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number * number

    results = prefetch(work, range(50), num_workers=3, window=5)
    for expected in range(20):
        assert next(results) == expected * expected
        assert len(begun) <= expected + 1 + 5
    results.close()
    assert len(begun) < 30


@pytest.mark.parametrize("change", ["gone", "other arguments", "not called"])
def test_a_release_that_encodes_otherwise_is_noticed(
    change: str, folder: Path, media: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The plain `encode` serves, with the same vectors, and one line says so."""
    inputs = ["a cat", {"image": str(media / "one.png"), "text": "a dog"}, "a cat"]
    expected = LlaveSentenceTransformer(str(folder), device="cpu").encode(inputs, max_tokens=64)
    steps = SentenceTransformer._inference
    if change == "other arguments":
        monkeypatch.setattr(
            SentenceTransformer, "_inference", lambda self, inputs, **kwargs: steps(self, inputs, **kwargs)
        )
    else:
        new = SentenceTransformer.encode
        while hasattr(new, "__wrapped__"):
            new = new.__wrapped__
        code = new.__code__
        names = tuple("_by_other_steps" if name == "_inference" else name for name in code.co_names)
        monkeypatch.setattr(new, "__code__", code.replace(co_names=names))
        monkeypatch.setattr(
            SentenceTransformer,
            "_by_other_steps",
            lambda self, *args, **kwargs: steps(self, *args, **kwargs),
            raising=False,
        )
        if change == "gone":
            monkeypatch.delattr(SentenceTransformer, "_inference")
    caplog.clear()
    model = LlaveSentenceTransformer(str(folder), device="cpu")
    assert [record.message for record in caplog.records if "encodes by other steps than 6.2" in record.message]
    assert np.abs(model.encode(inputs, max_tokens=64) - expected).max() < 1e-6
    with pytest.raises(ValueError, match=r"needs sentence-transformers 6\.2"):
        model.encode(inputs, on_error="none")
