from __future__ import annotations

import doctest
import itertools
import pickle
from pathlib import Path

import pytest

from llave_hf.data import samples
from llave_hf.data.samples import Sample, sample_from, strip_marks


def test_docstrings() -> None:
    assert doctest.testmod(samples) == doctest.TestResults(failed=0, attempted=2)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("<|image_1|>\nRepresent the given image.\n", "\nRepresent the given image.\n"),
        ("<|image_1|>", ""),
        ("<|image_1|>\n", "\n"),
        ("  no mark  \n", "  no mark  \n"),
        ("before <|image_1|> after", "before  after"),
        ("<|image_1|>\n<|image_2|> <|image_12|>\nall", "\nall"),
        ("<|video_1|> clip", " clip"),
        ("<|image_x|> <image> <|im_end|>", "<|image_x|> <image> <|im_end|>"),
    ],
)
def test_strips_marks_and_nothing_else(text: str, stripped: str) -> None:
    assert strip_marks(text) == stripped


KEY = 3852626036214584402  # written down once: cached vectors and logs may hold keys


def test_key_is_the_same_in_every_process_and_release() -> None:
    assert Sample("a", ("b.png", "c.png"), "d.mp4", "/root").key() == KEY
    assert -(2**63) <= KEY < 2**63


def test_key_tells_contents_apart() -> None:
    different = [
        Sample(),
        Sample("ab"),
        Sample("a", ("b",)),
        Sample("", ("ab",)),
        Sample("", ("a", "b")),
        Sample("", ("b", "a")),
        Sample("", (), "ab"),
        Sample("", (), ""),
        Sample("", ("ab",), None, "ab"),
        Sample("1:a"),
        Sample("\ud800"),  # a lone surrogate, as broken JSON holds
    ]
    for one, other in itertools.combinations(different, 2):
        assert one.key() != other.key(), (one, other)


def test_a_text_is_the_same_wherever_it_stands() -> None:
    assert Sample("yes", media_root="here").key() == Sample("yes", media_root="there").key() == Sample("yes").key()
    assert Sample("yes", ("a.png",), None, "here").key() != Sample("yes", ("a.png",), None, "there").key()


def test_samples_survive_pickling() -> None:
    sample = Sample("a", ("b.png",))
    assert pickle.loads(pickle.dumps(sample)) == sample


def test_folder_or_video_suffix_among_the_images_is_a_video(root: Path) -> None:
    assert sample_from("<|image_1|>\nx", "video/clip", media_root=root).video == "video/clip"
    assert sample_from("x", "a/b.MP4").video == "a/b.MP4"
    assert sample_from("x", ["a.png", "b.webm"]) == Sample("x", ("a.png",), "b.webm")
    assert sample_from("x", "a.gif") == Sample("x", ("a.gif",))
    assert sample_from("x", None, "a.gif") == Sample("x", (), "a.gif")


def test_nothing_given_is_nothing() -> None:
    assert sample_from(None, ["", None], "") == Sample()


def test_refuses_two_videos() -> None:
    with pytest.raises(ValueError, match=r"2 videos \(b.mp4, a.mp4\)"):
        sample_from("x", ["a.mp4"], "b.mp4")
