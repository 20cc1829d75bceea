"""Numbers for contents, and guesses of tokens, against the samples that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from mmeb_rows import rows

from llave_hf.data import load_pairs
from llave_hf.data.rows.columns import side_columns
from llave_hf.data.rows.contents import (
    TOKENS_PER_IMAGE,
    TOKENS_PER_PROMPT,
    TOKENS_PER_VIDEO,
    content_codes,
    token_estimates,
)
from llave_hf.data.samples import strip_marks

Write = Callable[..., str]

_TEXTS = st.lists(
    st.sampled_from(["<|image_1|>", "<|video_1|>", " ", "\n", "\x0b", "\x1c", "\x85", "\u2003", "yes", "no"]),
    max_size=5,
)
_ENTRIES = st.lists(
    st.tuples(
        _TEXTS.map("".join),
        st.lists(st.sampled_from(["", "a.png", "b.png"]), max_size=3),
        st.sampled_from(["", "c.mp4"]),
        st.sampled_from([None, "one", "./one", "two"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(entries=_ENTRIES)
def test_equal_numbers_are_equal_samples(entries: list[tuple[str, list[str], str, str | None]]) -> None:
    sides, samples = [], []
    for text, images, video, root in entries:
        table = pa.table({"t": [text], "i": pa.array([images], pa.list_(pa.string())), "v": [video]})
        sides.append((side_columns(table, "t", "i", "v"), root))
        sample = sides[-1][0].sample(0, root)
        has_media = bool(sample.images or sample.video)
        samples.append((sample.text, sample.images, sample.video, sample.media_root if has_media else None))
    codes = content_codes(sides)
    for one, other in zip(samples, codes.tolist(), strict=True):
        assert {sample == one for sample, code in zip(samples, codes.tolist(), strict=True) if code == other} == {True}
        assert {code == other for sample, code in zip(samples, codes.tolist(), strict=True) if sample == one} == {True}


def test_all_white_space_between_marks_goes() -> None:
    spaces = [chr(n) for n in range(0x10000) if re.match(r"\s", chr(n))] + ["\u200b"]  # the last is none
    texts = [f"<|image_1|>{space}<|image_2|>x" for space in spaces]
    table = pa.table({"t": [*texts, "x"]})
    codes = content_codes([(side_columns(table, "t", "", ""), None)])
    stripped = [strip_marks(text) == "x" for text in texts]
    assert stripped.count(True) == len(spaces) - 1 > 20
    assert (codes[:-1] == codes[-1]).tolist() == stripped


def test_a_video_is_the_same_in_either_column() -> None:
    table = pa.table({"t": ["x", "x", "x"], "i": [["c.mp4"], [""], ["d.mp4"]], "v": ["", "c.mp4", ""]})
    first, second, third = content_codes([(side_columns(table, "t", "i", "v"), "root")])
    assert first == second != third


def test_tokens_by_text_and_media() -> None:
    table = pa.table({"t": ["a" * 40, "", "é" * 40], "i": [["a.png", "b.png"], [], []], "v": ["", "c.mp4", ""]})
    assert (token_estimates(side_columns(table, "t", "i", "v")) - TOKENS_PER_PROMPT).tolist() == [
        10 + 2 * TOKENS_PER_IMAGE,
        TOKENS_PER_VIDEO,
        20,
    ]


def test_contents_and_tokens_of_a_data_set(write: Write) -> None:
    some = rows(4)
    some[1] |= {"pos_text": some[0]["pos_text"], "pos_image_path": some[0]["pos_image_path"]}
    some[3] |= {"qry": some[2]["qry"], "qry_image_path": some[2]["qry_image_path"]}
    some = [
        {**row, "neg_text": ["x" * 40] * number, "neg_image_path": [""] * number} for number, row in enumerate(some)
    ]
    pairs = load_pairs(write(some))
    for side, codes in zip(("query", "positive"), pairs.contents(), strict=True):
        keys = [getattr(pairs[row], side).key() for row in range(4)]
        assert (codes[:, None] == codes).tolist() == [[one == other for other in keys] for one in keys]
    surplus = pairs.token_estimates() - pairs.token_estimates(use_negatives=False)
    assert surplus.tolist() == [number * (TOKENS_PER_PROMPT + 10) for number in range(4)]


def test_no_rows() -> None:
    assert content_codes([]).tolist() == []
