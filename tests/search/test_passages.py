from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llave_hf.search.passages import read_passages, split_passages


@given(st.text(st.sampled_from("ab .\n\t。é"), max_size=300), st.integers(2, 40))
def test_passages_are_the_text(text: str, limit: int) -> None:
    """Each stands where it says, none is too long, and only white space lies between them."""
    passages = split_passages(text, limit)
    place = 0
    for passage in passages:
        assert text[passage.start : passage.end] == passage.text
        assert 0 < len(passage.text) <= limit
        assert not text[place : passage.start].strip()
        place = passage.end
    assert not text[place:].strip()


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one two. three\n\nfour. five\nsix seven eight", "one two. three"),
        ("one two. three\nfour five. six seven eight nine", "one two. three"),
        ("one two three. four five six seven eight nine ten", "one two three."),
        ("one two three four five six seven eight nine ten", "one two three four"),
        ("a" * 50, "a" * 20),
    ],
)
def test_a_passage_ends_where_the_author_paused(text: str, first: str) -> None:
    assert split_passages(text, 20)[0].text == first


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 \(byte 0\)"):
        read_passages(path)
    path.write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        read_passages(path)
    path.write_bytes("\ufeffhere".encode())
    assert [passage.text for passage in read_passages(path)] == ["here"]
