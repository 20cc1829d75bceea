"""`llave mine`: exact neighbours, filters against false negatives, rows that nothing was lost from, resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture, write_training_data
from hypothesis import given
from hypothesis import strategies as st

from llave_hf.cli import main
from llave_hf.data.mining import mined_rows, nearest
from llave_hf.data.mining.mining import MiningOptions, mine_task
from llave_hf.data.mining.row_columns import mined_columns
from llave_hf.data.pairs import TaskRows, load_pairs, open_tasks
from llave_hf.data.samples import Sample
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.data.vectors.embedding_cache import EmbeddingCache, as_input
from llave_hf.encoding.sentence_transformer import load_encoder
from llave_hf.errors import UserError


class Planted:
    """An encoder whose vectors are written down: a text "angle 30" lies at 30 degrees."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, inputs: Sequence[Any], **_: Any) -> np.ndarray:
        texts = [entry if isinstance(entry, str) else entry["text"] for entry in inputs]
        self.calls += texts
        angles = np.radians([float(text.split()[-1]) for text in texts])
        return np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)


def task_of(folder: Path, rows: Sequence[dict[str, Any]]) -> TaskRows:
    (folder / "Task").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"qry_image_path": "", "pos_image_path": "", **row}) for row in rows]
    (folder / "Task" / "original.jsonl").write_text("\n".join(lines) + "\n")
    return open_tasks([SourceSpec(str(folder))])[0][1]


def mined(folder: Path, rows: Sequence[dict[str, Any]], **options: Any) -> Any:
    cache = EmbeddingCache(Planted(), None, "", show_progress=False)
    return mine_task(task_of(folder, rows), cache, MiningOptions(**options))


def row(query: int, positive: int, **more: Any) -> dict[str, Any]:
    return {"qry": f"angle {query}", "pos_text": f"angle {positive}", **more}


ROWS = [row(0, 20), row(100, 25), row(200, 30), row(300, 60), row(45, 80)]


# ------------------------------------------------------------------------------------------------------- neighbours


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 12), st.integers(0, 9))
def test_tiles_give_the_neighbours_of_a_dense_sort(queries: int, documents: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    left = numbers.integers(-2, 3, (queries, 3)).astype(np.float32)  # whole numbers: many ties
    right = numbers.integers(-2, 3, (documents, 3)).astype(np.float32)
    products = left @ right.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :count]
    before = nearest.QUERY_TILE, nearest.DOCUMENT_TILE
    nearest.QUERY_TILE, nearest.DOCUMENT_TILE = 7, 11
    try:
        scores, found = nearest.nearest(left, right, count)
    finally:
        nearest.QUERY_TILE, nearest.DOCUMENT_TILE = before
    assert np.array_equal(found, expected)
    assert np.array_equal(scores, np.take_along_axis(products, expected, 1))


def test_faiss_is_asked_for_where_it_is_not_installed() -> None:
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="index is 'annoy'"):
        nearest.nearest(vectors, vectors, 2, "annoy")
    try:
        import faiss  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install faiss-cpu"):
            nearest.nearest(vectors, vectors, 2, "faiss")
    else:
        assert nearest.nearest(vectors, vectors, 1, "faiss")[1][:, 0].tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------------- filters


def test_the_hardest_come_first_and_the_positive_never(tmp_path: Path) -> None:
    found = mined(tmp_path, ROWS, num_negatives=3, relative_margin=None)
    # documents by angle: 20, 25, 30, 60, 80
    assert found.negatives[0] == [1, 2, 3]
    assert found.negatives[3] == [0, 1, 2]  # 300 degrees: 20 is nearest, then 25, 30
    assert found.dropped["positive"] > 0
    assert found.scores[0] == pytest.approx(np.cos(np.radians([25, 30, 60])), abs=1e-6)
    assert (found.queries, found.documents) == (5, 5)


def test_each_negative_has_its_cosine_with_the_query(tmp_path: Path) -> None:
    rows = [
        row(0, 20, neg_text=["angle 90", "angle 70"]),
        row(100, 25, neg_text=[]),
        row(100, 60, neg_text=["angle 40"]),
    ]
    found = mined(tmp_path, rows, num_negatives=1, relative_margin=None)
    assert found.negatives == [[1], [0], [0]]  # 25 and 60 degrees answer the query of rows 1 and 2
    between = [[90, 70, 25], [80], [60, 80]]  # the rows' own come first
    for scores, degrees in zip(found.scores, between, strict=True):
        assert scores == pytest.approx(np.cos(np.radians(degrees)), abs=1e-6)


def test_a_positive_of_any_row_with_the_same_query_is_no_negative(tmp_path: Path) -> None:
    rows = [row(0, 20), row(0, 25), row(200, 30), row(10, 25)]
    found = mined(tmp_path, rows, num_negatives=5, relative_margin=None)
    assert found.negatives[0] == found.negatives[1] == [2]
    assert found.negatives[3] == [0, 2]  # of another query, 20 is a negative


def test_the_query_itself_is_no_negative(tmp_path: Path) -> None:
    rows = [row(20, 40), row(90, 20), row(0, 300)]  # the first query is the second row's positive
    found = mined(tmp_path, rows, num_negatives=5, relative_margin=None)
    assert found.negatives[0] == [2]
    assert found.dropped["itself"] == 1


def test_a_negative_that_a_row_brings_is_not_found_again(tmp_path: Path) -> None:
    rows = [row(0, 20, neg_text=["angle 25", "angle 70"]), *(row(*one, neg_text=[]) for one in ((100, 25), (200, 30)))]
    found = mined(tmp_path, rows, num_negatives=2, relative_margin=None)
    assert found.negatives[0] == [2]
    assert found.dropped["own"] == 1
    assert "1 candidates: is a negative that the query has" in found.report(2)
    assert found.negatives[2] == [0, 1][::-1]  # of another query, 25 is one


def test_a_document_of_the_same_label_is_no_negative(tmp_path: Path) -> None:
    rows = [row(0, 20, label="a"), row(100, 25, label="a"), row(200, 30, label="b"), row(300, 60, label=None)]
    found = mined(tmp_path, rows, num_negatives=3, relative_margin=None)
    assert found.negatives[0] == [2, 3]
    assert set(found.negatives[2]) == {0, 1, 3}
    assert set(found.negatives[3]) == {0, 1, 2}  # no label is not a label
    assert found.dropped["label"] == 2
    assert "has the label of the query" in found.report(3)


@pytest.mark.parametrize(
    ("options", "expected", "reason"),
    [
        ({"relative_margin": 0.05}, [2, 3], "margin"),  # 0.95 * cos 20 = 0.893: 25 degrees (0.906) is out, 30 in
        ({"relative_margin": None, "absolute_margin": 0.1}, [3], "margin"),  # 0.84: 30 (0.866) is out, 60 in
        ({"relative_margin": None, "max_score": 0.6}, [3], "max_score"),
        ({"relative_margin": None, "min_score": 0.6}, [1, 2], "min_score"),
        ({"relative_margin": None, "rank_min": 1}, [2, 3], "rank"),
        ({"relative_margin": None, "rank_max": 1}, [1], None),
    ],
)
def test_filters(options: dict[str, Any], expected: list[int], reason: str | None, tmp_path: Path) -> None:
    found = mined(tmp_path, ROWS[:4], num_negatives=2, **options)
    assert found.negatives[0] == expected
    assert reason is None or found.dropped[reason] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives is 0"),
        ({"group_size": 1}, "group_size is 1; it must be at least 2"),
        ({"group_size": 4, "group_by": "rank"}, "group_by is 'rank'; choose one of 'mutual_ranks', 'owner_queries'"),
        ({"rank_min": 5, "rank_max": 5}, "0 <= rank_min < rank_max"),
        ({"relative_margin": 1.5}, "relative_margin is 1.5"),
        ({"absolute_margin": -0.1}, "absolute_margin is -0.1"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiningOptions(**options)


def test_each_distinct_sample_is_encoded_once(tmp_path: Path) -> None:
    encoder = Planted()
    rows = [row(0, 20), row(0, 25), row(10, 20), row(20, 25)]
    mine_task(task_of(tmp_path, rows), EmbeddingCache(encoder, None, "", show_progress=False), MiningOptions())
    assert sorted(encoder.calls) == sorted(["angle 0", "angle 10", "angle 20", "angle 20", "angle 25"])


class Particular(Planted):
    """Refuses some texts."""

    def encode(self, inputs: Sequence[Any], **options: Any) -> np.ndarray:
        if refused := {"angle 3", "angle 7"} & set(inputs):
            raise ValueError(f"not {', '.join(sorted(refused))}")
        return super().encode(inputs, **options)


def test_what_cannot_be_encoded_is_found_and_the_rest_is_kept(tmp_path: Path) -> None:
    samples = [Sample(f"angle {number}") for number in range(10)]
    cache = EmbeddingCache(Particular(), tmp_path / "cache", "", show_progress=False)
    told: list[tuple[str, str]] = []
    cache.fill(samples, "some", lambda sample, error: told.append((sample.text, str(error))))
    assert told == [("angle 3", "not angle 3"), ("angle 7", "not angle 7")]
    good = [sample for sample in samples if sample.text not in dict(told)]
    cache.encoder = None
    assert cache.encode(good, "others").shape == (8, 2)


def test_a_folder_that_cannot_be_written_is_not_the_samples_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = EmbeddingCache(Planted(), tmp_path / "file", "", show_progress=False)
    with pytest.raises(UserError, match=r"vectors cannot be kept in .*file"):
        cache.fill([Sample("angle 1"), Sample("angle 2")], "some", lambda *_: pytest.fail("told"))


# ------------------------------------------------------------------------------------------------------------- rows


def test_own_negatives_stay_before_the_mined_ones(tmp_path: Path) -> None:
    rows = [row(0, 20, neg_text="own", neg_image_path=""), row(100, 25, neg_text="", neg_image_path="")]
    task = task_of(tmp_path, rows)
    assert mined_columns(task, [[1], [0]], [[0.5, 0.25], [-0.125]]) == [
        {"neg_text": ["own", "angle 25"], "neg_image_path": ["", ""], "neg_hardness": [0.5, 0.25]},
        {"neg_text": ["angle 20"], "neg_image_path": [""], "neg_hardness": [-0.125]},
    ]


def run(root: Path, model: Path, output: Path, *more: str) -> None:
    arguments = ["mine", str(root / "train"), str(model), "--output", str(output), "--media_root", str(root)]
    main([*arguments, "--num_negatives", "3", "--relative_margin", "0", *more])


def test_the_command_writes_rows_that_train(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_training_data(tmp_path / "data")
    output = tmp_path / "mined"
    run(root, model, output)
    text = capsys.readouterr().out
    assert "Caption: 24 rows, 24 distinct queries, 24 distinct documents" in text
    for name in ("Caption", "Question"):
        before = [json.loads(line) for line in (root / "train" / name / "original.jsonl").read_text().splitlines()]
        after = [json.loads(line) for line in (output / name / "original.jsonl").read_text().splitlines()]
        assert [{key: new[key] for key in old} for old, new in zip(before, after, strict=True)] == before
        assert any(new["neg_text"] for new in after)
        for new in after:
            assert len(new["neg_text"]) == len(new["neg_image_path"]) <= 3
            assert (new["pos_text"], new["pos_image_path"]) not in set(
                zip(new["neg_text"], new["neg_image_path"], strict=True)
            )
    pairs = load_pairs(str(output), media_root=str(root))
    assert any(pairs[index].negatives for index in range(len(pairs)))
    encoder = load_encoder(model)
    for pair in pairs:
        assert pair.negative_hardness is not None
        query, *vectors = encoder.encode([as_input(sample) for sample in (pair.query, *pair.negatives)])
        assert [float(query @ vector) for vector in vectors] == pytest.approx(pair.negative_hardness, abs=1e-5)
    # again: nothing is encoded, no model is opened
    monkeypatch.setattr("llave_hf.encoding.sentence_transformer.load_encoder", None)
    stamp = (output / "Caption" / "original.jsonl").stat().st_mtime_ns
    run(root, model, output)
    assert "Caption: already mined, kept" in capsys.readouterr().out
    assert (output / "Caption" / "original.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(SystemExit) as exit:
        run(root, model, output, "--rank_max", "7")
    assert exit.value.code == 2
    assert "with another model or other settings" in capsys.readouterr().err


def test_the_data_are_never_replaced_by_what_is_mined(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_training_data(tmp_path / "data", tasks=["Caption"])
    rows = (root / "train" / "Caption" / "original.jsonl").read_text()
    for output in (root / "train", root / "train" / "Caption" / ".."):
        with pytest.raises(SystemExit):
            run(root, model, output)
        assert "Caption/original.jsonl would be replaced by its mined rows; name another" in capsys.readouterr().err
    assert (root / "train" / "Caption" / "original.jsonl").read_text() == rows
    assert [path.name for path in (root / "train").iterdir()] == ["Caption"]
    run(root, model, tmp_path / "mined")
    (tmp_path / "mined" / "Caption" / "mining.json").write_text("{")
    with pytest.raises(SystemExit):
        run(root, model, tmp_path / "mined")
    assert "mining.json is no JSON" in capsys.readouterr().err


def test_a_stopped_run_goes_on_from_its_vectors(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_training_data(tmp_path / "data")
    monkeypatch.setattr("llave_hf.data.vectors.embedding_cache.PIECE", 8)
    run(root, model, tmp_path / "whole")
    piece, calls = EmbeddingCache._piece, []

    def stop(self: EmbeddingCache, samples: Any) -> np.ndarray:
        calls.append(len(samples))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return piece(self, samples)

    monkeypatch.setattr(EmbeddingCache, "_piece", stop)
    with pytest.raises(SystemExit, match="130"):
        run(root, model, tmp_path / "stopped")
    monkeypatch.setattr(EmbeddingCache, "_piece", piece)
    cached = list((tmp_path / "stopped" / mined_rows.CACHE_FOLDER).iterdir())
    assert len(cached) == 4
    stamps = {path: path.stat().st_mtime_ns for path in cached}
    run(root, model, tmp_path / "stopped")
    assert {path: path.stat().st_mtime_ns for path in cached} == stamps
    for name in ("Caption", "Question"):
        parts = [(tmp_path / run_name / name / "original.jsonl").read_text() for run_name in ("whole", "stopped")]
        assert parts[0] == parts[1]


def test_several_pictures_and_videos_are_written_as_lists(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture().save(tmp_path / f"{name}.png")
    (tmp_path / "clip").mkdir()
    picture().save(tmp_path / "clip" / "0.png")
    rows = [
        {"qry": "x", "pos_text": "<|image_1|><|image_2|> two", "pos_image_path": ["a.png", "b.png"]},
        {"qry": "y", "pos_text": "<|image_1|> one", "pos_image_path": ["c.png"]},
        {"qry": "z", "pos_text": "clip", "pos_image_path": [], "pos_video_path": "clip"},
    ]
    task = task_of(tmp_path, rows)
    columns = mined_columns(task, [[1, 2], [0], []], [[0.5, 0.25], [0.5], []])
    assert columns[0]["neg_image_path"] == [["c.png"], []]
    assert columns[0]["neg_video_path"] == ["", "clip"]
    assert columns[1] == {
        "neg_text": ["<|image_1|><|image_2|> two"],
        "neg_image_path": [["a.png", "b.png"]],
        "neg_video_path": [""],
        "neg_hardness": [0.5],
    }


# ------------------------------------------------------------------------------------------------ rows that were mined


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "original.jsonl").read_text().splitlines()]


def test_judged_rows_want_a_judge_for_more_negatives(model: Path, tmp_path: Path) -> None:
    task_of(tmp_path / "data", [row(0, 20, neg_text=["angle 70"], pos_score=0.9, neg_score=[0.1]), row(100, 25)])
    with pytest.raises(ValueError, match=r"'neg_score', one number a negative.*give --judge MODEL"):
        mined_rows.mine(str(tmp_path / "data"), model, tmp_path / "mined", MiningOptions(num_negatives=1))
    options = MiningOptions(num_negatives=0, group_size=2, relative_margin=None)
    mined_rows.mine(str(tmp_path / "data"), model, tmp_path / "grouped", options)
    assert [line["neg_score"] for line in lines(tmp_path / "grouped" / "Task") if line["neg_text"]] == [[0.1]]


def test_hardness_that_rows_bring_stays_where_nothing_is_added(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task_of(tmp_path / "data", [row(0, 20, neg_text=["angle 70"], neg_hardness=[0.125]), row(100, 25, neg_text=[])])
    options = MiningOptions(num_negatives=0, group_size=2, relative_margin=None)
    mined_rows.mine(str(tmp_path / "data"), model, tmp_path / "grouped", options)
    assert [line["neg_hardness"] for line in lines(tmp_path / "grouped" / "Task") if line["neg_text"]] == [[0.125]]
    assert "is this model's now" not in capsys.readouterr().out
    mined_rows.mine(str(tmp_path / "data"), model, tmp_path / "mined", MiningOptions(relative_margin=None))
    assert lines(tmp_path / "mined" / "Task")[0]["neg_hardness"][0] != 0.125
    assert "'neg_hardness' of the negatives that rows came with is this model's now" in capsys.readouterr().out
