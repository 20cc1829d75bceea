"""Labels, hardness and scores from the columns of training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mmeb_rows import rows

from llave_hf.data.pairs import load_pairs
from llave_hf.data.rows.labels import numbers_of
from llave_hf.data.samples import Pair, Sample
from llave_hf.data.streaming.tasks import stream_pairs

Write = Callable[..., str]


def judged(**columns: list[Any]) -> list[dict[str, Any]]:
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(rows(3))]


def test_labels_are_equal_within_a_task_where_they_are_equal(write: Write) -> None:
    one = write(judged(label=["cat", None, "cat"]), "one.parquet")
    two = write(judged(label=[4, 5, 4]), "two.parquet")
    labels = [pair.label for pair in load_pairs([one, two])]
    assert labels[0] == labels[2] != labels[1] == -1
    assert labels[3] == labels[5] != labels[4]
    assert len(set(labels)) == 4
    assert min(labels[i] for i in (0, 2, 3, 4, 5)) >= 0
    alone = load_pairs(write(judged(label=["dog", "cow", "cat"]), "one.parquet"))
    assert alone[2].label == labels[0]  # whatever other rows are read


def test_hardness_goes_with_its_negative(write: Write) -> None:
    path = write(
        judged(
            pos_hardness=[0.5, 0.25, 1],
            neg_text=[["a", "b"], [], ["c"]],
            neg_hardness=[[0.125, 0.75], [], [-0.5]],
        )
    )
    pairs = list(load_pairs(path))
    assert [pair.hardness for pair in pairs] == [0.5, 0.25, 1.0]
    assert [pair.negative_hardness for pair in pairs] == [(0.125, 0.75), (), (-0.5,)]
    batch = numbers_of(pairs, ("pos_hardness", "neg_hardness"), 2)
    assert batch["document_hardness"].tolist() == [0.5, 0.25, 1.0]
    assert batch["negative_hardness"].tolist() == [[0.125, 0.75], [0.0, 0.0], [-0.5, 0.0]]


def test_one_number_goes_with_one_negative(write: Write) -> None:
    path = write(judged(neg_text=["a", "", "c"], neg_hardness=[0.5, None, 0.25]))
    assert [pair.negative_hardness for pair in load_pairs(path)] == [(0.5,), (), (0.25,)]
    assert load_pairs(path, use_negatives=False)[0].negative_hardness is None


def test_scores_go_with_their_candidates(write: Write) -> None:
    """Mapped and streamed; a row without negatives needs none."""
    said = judged(
        pos_score=[0.75, None, 1],
        neg_text=[["a", "b"], [], ["c"]],
        neg_score=[[0.125, 0.5], [], [0.25]],
    )
    path = write(said)
    streamed = stream_pairs(path)
    for pairs in (list(load_pairs(path)), [streamed[row] for row in range(3)]):
        assert [pair.score for pair in pairs] == [0.75, None, 1.0]
        assert [pair.negative_scores for pair in pairs] == [(0.125, 0.5), (), (0.25,)]
        assert [pair.negative_hardness for pair in pairs] == [None] * 3
        batch = numbers_of(pairs, ("pos_score", "neg_score"), 2)
        assert batch["positive_scores"].tolist() == [0.75, 0.0, 1.0]
        assert batch["negative_scores"].tolist() == [[0.125, 0.5], [0.0, 0.0], [0.25, 0.0]]
    assert numbers_of(pairs, ("pos_score", "neg_score"), 0) == {}
    without = load_pairs(path, use_negatives=False)[0]
    assert (without.score, without.negative_scores) == (0.75, None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0.5, 1.5, 2.5]}, "'label' holds double"),
        ({"pos_hardness": ["a", "b", "c"]}, "'pos_hardness' holds string"),
        ({"pos_hardness": [0.5, None, 1]}, "row 1.*'pos_hardness' is nan"),
        ({"neg_text": ["a", "", "c"], "neg_hardness": [0.5, 1.0, None]}, "row 2.*'neg_hardness' is nan"),
        ({"neg_text": [["a"], ["b"], ["c", "d"]], "neg_hardness": [0.5, 1.0, 1.0]}, "row 2.*one number for 2 negat"),
        ({"neg_text": [["a"], ["b"], ["c"]], "neg_hardness": [[1.0], [1.0, 2.0], [1.0]]}, "row 1.*2 numbers for 1"),
        (
            {"neg_text": [["a"], ["b"], ["c"]], "neg_score": [[1.0], [1.0], []]},
            "row 2.*'neg_score' has 0 numbers for 1",
        ),
        ({"neg_text": [["a"], ["b"], ["c"]], "neg_score": [[1.0], [None], [1.0]]}, "row 1.*'neg_score' is nan"),
        ({"neg_text": [["a"], [], ["c"]], "pos_score": [1.0, None, None]}, "row 2.*'pos_score' is nan; give a finite"),
        ({"pos_score": ["a", "b", "c"]}, "'pos_score' holds string"),
    ],
)
def test_what_cannot_be_used_is_named(write: Write, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_pairs(write(judged(**columns)))


def test_a_row_without_what_the_loss_needs_is_named() -> None:
    pairs = [Pair(Sample("a"), Sample("b"), (Sample("c"),), "task", 7, hardness=1.0)]
    assert numbers_of(pairs, (), 1) == {}
    with pytest.raises(ValueError, match="task, row 7: hardness_source is 'column' and the row has no 'neg_hardness'"):
        numbers_of(pairs, ("pos_hardness", "neg_hardness"), 1)
    with pytest.raises(ValueError, match="row 7: distill_source is 'column' and the row has no 'pos_score'; add the"):
        numbers_of(pairs, ("pos_score", "neg_score"), 1)
    pairs = [replace(pairs[0], score=0.5), Pair(Sample("a"), Sample("d"), (), "task", 8)]
    with pytest.raises(ValueError, match="row 7: distill_source is 'column' and the row has no 'neg_score'"):
        numbers_of(pairs, ("pos_score", "neg_score"), 1)
    assert numbers_of(pairs[1:], ("pos_score", "neg_score"), 1)["negative_scores"].tolist() == [[0.0]]
