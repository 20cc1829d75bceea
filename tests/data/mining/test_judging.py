"""`llave mine --judge`: probabilities, what is called right is left out, columns that stand by negatives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import save_backbone
from helpers import picture, tiny_model, write_training_data
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from llave_hf.cli import main
from llave_hf.data.mining.judging import CrossEncoderJudge, EmbeddingJudge, is_cross_encoder, load_judge
from llave_hf.data.mining.mining import MiningOptions, mine_task
from llave_hf.data.mining.row_columns import mined_columns
from llave_hf.data.pairs import TaskRows, load_pairs, open_tasks
from llave_hf.data.samples import Sample
from llave_hf.data.sources.specs import SourceSpec
from llave_hf.data.vectors.embedding_cache import EmbeddingCache
from llave_hf.errors import UserError


class Angles:
    """An encoder whose vectors are written down: a text "at 30" lies at 30 degrees."""

    def encode(self, inputs: Sequence[Any], **_: Any) -> np.ndarray:
        angles = np.radians([float(text.split()[-1]) for text in inputs])
        return np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)


class Written:
    """A judge whose words are written down; everything else is 0.25."""

    def __init__(self, said: dict[tuple[str, str], float]) -> None:
        self.said = said
        self.asked: list[tuple[str, str]] = []

    def scores(self, queries: Sequence[Sample], documents: Sequence[Sample], what: str) -> np.ndarray:
        asked = [(query.text, document.text) for query, document in zip(queries, documents, strict=True)]
        self.asked += asked
        return np.array([self.said.get(pair, 0.25) for pair in asked])


def cache() -> EmbeddingCache:
    return EmbeddingCache(Angles(), None, "", show_progress=False)


def task_of(folder: Path, rows: Sequence[dict[str, Any]]) -> TaskRows:
    (folder / "Task").mkdir(parents=True)
    (folder / "Task" / "original.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_tasks([SourceSpec(str(folder))])[0][1]


def row(query: int, positive: int, **more: Any) -> dict[str, Any]:
    return {"qry": f"at {query}", "pos_text": f"at {positive}", **more}


ROWS = [
    row(0, 20, neg_text=["at 70"]),
    row(100, 25, neg_text=[]),
    row(200, 30, neg_text=[]),
    row(300, 60, neg_text=[]),
]


def test_a_cosine_becomes_half_of_one_and_itself() -> None:
    queries, documents = ([Sample(f"at {angle}") for angle in side] for side in ([0, 0, 90], [0, 60, 270]))
    assert EmbeddingJudge(cache()).scores(queries, documents, "") == pytest.approx([1.0, 0.75, 0.0], abs=1e-7)


def test_what_the_judge_calls_right_is_left_out_and_counted(tmp_path: Path) -> None:
    judge = Written(
        {("at 0", "at 20"): 0.75, ("at 0", "at 25"): 0.875, ("at 0", "at 70"): 0.8, ("at 100", "at 25"): 0.5}
    )
    options = MiningOptions(num_negatives=2, relative_margin=None)
    found = mine_task(task_of(tmp_path, ROWS), cache(), options, judge)
    assert found.judged is not None
    assert found.negatives[0] == [2, 3]  # by angle 25, 30, 60: the first is right
    assert found.judged.positives.tolist() == [0.75, 0.5, 0.25, 0.25]
    assert found.judged.negatives[0] == [0.8, 0.25, 0.25]  # its own stays, though it is right
    assert found.judged.own_right == 1
    assert found.dropped["judge"] == 1
    assert found.scores[0] == pytest.approx(np.cos(np.radians([70, 30, 60])), abs=1e-6)
    assert len(judge.asked) == len(set(judge.asked))
    told = found.report(2)
    assert "1 candidates: is right, says the judge" in told
    assert "positives 0.438 on average" in told
    assert "it calls 1 of the negatives that rows came with right, which stay" in told


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [2, 3]), ({"judge_margin": 0.5}, [2]), ({"judge_threshold": 0.3}, [2]), ({"judge_candidates": 3}, [2, 3])],
)
def test_margin_threshold_and_candidates(options: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    judge = Written({("at 0", "at 20"): 0.75, ("at 0", "at 25"): 0.875, ("at 0", "at 60"): 0.5})
    task = task_of(tmp_path, ROWS)
    found = mine_task(task, cache(), MiningOptions(num_negatives=3, relative_margin=None, **options), judge)
    assert found.negatives[0] == expected


def test_columns_stand_by_their_negatives(tmp_path: Path) -> None:
    task = task_of(tmp_path, ROWS)
    judge = Written({("at 0", "at 70"): 0.125, ("at 0", "at 30"): 0.0625})
    found = mine_task(task, cache(), MiningOptions(num_negatives=2, relative_margin=None), judge)
    columns = mined_columns(task, found.negatives, found.scores, found.judged)
    assert columns[0]["neg_text"] == ["at 70", "at 25", "at 30"]
    assert (columns[0]["pos_score"], columns[0]["neg_score"]) == (0.25, [0.125, 0.25, 0.0625])
    assert all(len(one["neg_score"]) == len(one["neg_text"]) for one in columns)


def test_what_the_judge_calls_right_does_not_meet_in_a_group(tmp_path: Path) -> None:
    rows = [row(angle, angle + 3) for angle in range(0, 120, 10)]
    task = task_of(tmp_path, rows)
    options = MiningOptions(num_negatives=2, rank_max=4, relative_margin=None, group_size=2)
    plain = mine_task(task, cache(), options).grouping
    assert plain is not None
    met = {tuple(sorted(group)) for group in plain.rows.tolist()}
    said = {(f"at {10 * one}", f"at {10 * other + 3}"): 0.9 for one, other in met}
    judged = mine_task(task, cache(), options, Written(said)).grouping
    assert judged is not None
    assert met.isdisjoint({tuple(sorted(group)) for group in judged.rows.tolist()})
    assert len(judged.rows) > 3


class Logits:
    """A CrossEncoder that gives what it is told."""

    def __init__(self, *logits: Any) -> None:
        self.logits = torch.tensor(logits)

    def predict(self, pairs: Sequence[Any], activation_fn: Any, **_: Any) -> torch.Tensor:
        return activation_fn(self.logits)


def test_logits_become_probabilities() -> None:
    samples = [Sample("a"), Sample("b")]
    one = CrossEncoderJudge(Logits(0.0, -2.0)).scores(samples, samples, "")
    assert one == pytest.approx([0.5, 1 / (1 + np.exp(2))])
    two = CrossEncoderJudge(Logits([0.0, 0.0], [1.0, 3.0])).scores(samples, samples, "")
    assert two == pytest.approx([0.5, np.exp(3) / (np.exp(1) + np.exp(3))])
    with pytest.raises(UserError, match="the judge gives 3 numbers a pair"):
        CrossEncoderJudge(Logits([0.0, 0.0, 0.0])).scores(samples, samples, "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that embeds, and a judge that looks at pictures: a small language model, asked for one of two tokens."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    root = tmp_path_factory.mktemp("models")
    for part in tiny_model(processor={"image_tiling": "none"}):
        part.save_pretrained(root / "model")
    save_backbone(root / "backbone", "qwen2_vl")
    reader = Transformer(str(root / "backbone"), transformer_task="any-to-any")
    CrossEncoder(modules=[reader, LogitScore(true_token_id=5, false_token_id=7)], device="cpu").save_pretrained(
        str(root / "judge")
    )
    return write_training_data(root, tasks=["Caption"], rows=8)


def mined(root: Path, output: Path, judge: str, *more: str) -> list[dict[str, Any]]:
    command = ["mine", str(root / "train"), str(root / "model"), "--output", str(output), "--media_root", str(root)]
    main([*command, "--num_negatives", "2", "--relative_margin", "0", "--judge", str(root / judge), *more])
    return [json.loads(line) for line in (output / "Caption" / "original.jsonl").read_text().splitlines()]


def test_a_cross_encoder_judges_pictures(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sentence_transformers import CrossEncoder

    rows = mined(folders, tmp_path / "mined", "judge")
    assert "the judge gives positives 0." in capsys.readouterr().out
    model = CrossEncoder(str(folders / "judge"), device="cpu")
    asked = [
        [row["qry"], {"text": "\n", "image": Image.open(folders / path)}]
        for row in rows
        for path in (row["pos_image_path"], *row["neg_image_path"])
    ]
    expected = model.predict(asked)
    assert [score for row in rows for score in (row["pos_score"], *row["neg_score"])] == pytest.approx(
        expected, abs=1e-5
    )
    assert len(set(np.round(expected, 4))) > 4
    assert all(score <= row["pos_score"] for row in rows for score in row["neg_score"])
    left_out = json.loads((tmp_path / "mined" / "Caption" / "mining.json").read_text())["judged_right"]["candidates"]
    assert left_out > 0
    pairs = load_pairs(str(tmp_path / "mined"), media_root=str(folders))
    assert [len(pairs[number].negatives) for number in range(8)] == [len(row["neg_score"]) for row in rows]


def test_the_teacher_may_judge_itself(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = mined(folders, tmp_path / "mined", "model")
    for one in rows:
        assert one["neg_score"] == pytest.approx([(1 + cosine) / 2 for cosine in one["neg_hardness"]], abs=1e-5)
    with pytest.raises(SystemExit):  # another judge, other scores
        mined(folders, tmp_path / "mined", "judge")
    assert "with another model or other settings" in capsys.readouterr().err


def test_kinds_of_judges(folders: Path) -> None:
    assert is_cross_encoder(folders / "judge")
    assert not is_cross_encoder(folders / "model")
    assert isinstance(load_judge(folders / "model"), EmbeddingJudge)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge_threshold": 1.5}, "judge_threshold is 1.5; it must lie between 0 and 1"),
        ({"num_negatives": 5, "judge_candidates": 3}, "judge_candidates is 3 and num_negatives 5"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiningOptions(**options)


def test_a_cross_encoder_that_gives_no_number_is_named_with_the_pair() -> None:
    samples = [Sample("one"), Sample("two")]
    with pytest.raises(UserError, match=r"^the judge gives 'two' and 'one' a number that is not finite"):
        CrossEncoderJudge(Logits(1.0, np.nan)).scores(samples, [samples[0]] * 2, "what")


def test_a_judge_of_texts_alone_is_told_of_pictures(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(words), num_labels=1, max_position_embeddings=16, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "judge")
    judge = load_judge(tmp_path / "judge")
    texts = [Sample("a"), Sample("b")]
    assert ((judge.scores(texts, texts[::-1], "what") > 0) & (judge.scores(texts, texts[::-1], "what") < 1)).all()
    picture().save(tmp_path / "page.png")
    page = Sample("b", ("page.png",), media_root=str(tmp_path))
    with pytest.raises(
        UserError, match=r"^the judge cannot read 'a' beside page.png with 'b' .*; give one that reads"
    ):
        judge.scores([*texts, texts[0]], [*texts, page], "what")
