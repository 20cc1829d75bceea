from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import evaluate
import numpy as np
import pytest

from llave_hf.evaluation import module_path
from llave_hf.evaluation.modules import MODULES
from llave_hf.evaluation.scoring import metrics

SCORES = [[0.9, 0.1, 0.9], [0.2, 0.8], [0.3, 0.3, 0.3, 0.1], [0.5, -0.2, 0.1]]
ANSWERS = [0, 0, 2, 0]


@pytest.fixture(autouse=True, scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
        # a test before may have loaded one from the user's own cache, where Python would look for the others too
        monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "evaluate_modules").is_dir()])
        forget_modules()
        yield
    forget_modules()


def forget_modules() -> None:
    """Python's memory of where evaluate's modules lie."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


def load(name: str, tmp_path: Path) -> evaluate.EvaluationModule:
    return evaluate.load(module_path(name), cache_dir=str(tmp_path))


def test_every_module_loads_from_its_folder_and_agrees_with_the_metrics(tmp_path: Path) -> None:
    scores = np.zeros((4, 4))
    present = np.zeros((4, 4), dtype=bool)
    for number, row in enumerate(SCORES):
        scores[number, : len(row)], present[number, : len(row)] = row, True
    ranks = metrics.rank_answers(scores, ANSWERS, present)
    given = {"predictions": SCORES, "references": ANSWERS}
    assert load("precision_at_1", tmp_path).compute(**given) == {
        "precision_at_1": pytest.approx((1 / 2 + 0 + 1 / 3 + 1) / 4),
        "precision_at_1_pessimistic": 1 / 4,
        "precision_at_1_optimistic": 3 / 4,
    }
    recall = load("recall_at_k", tmp_path).compute(**given, k=2)
    assert recall == {"recall_at_2": pytest.approx(metrics.recall_at_k(ranks, 2).mean())}
    ndcg = load("ndcg_at_k", tmp_path).compute(**given)
    assert ndcg == {"ndcg_at_10": pytest.approx(metrics.ndcg_at_k(ranks, 10).mean())}
    overlap = load("similarity_overlap", tmp_path).compute(**given)
    assert overlap["similarity_right"] == pytest.approx(np.mean([0.9, 0.2, 0.3, 0.5]))
    assert overlap["similarity_hardest_wrong"] == pytest.approx(np.mean([0.9, 0.8, 0.3, 0.1]))


def test_modules_combine_and_take_batches(tmp_path: Path) -> None:
    combined = evaluate.combine([load(name, tmp_path) for name in MODULES])
    for scores, answer in zip(SCORES, ANSWERS, strict=True):
        combined.add(prediction=scores, reference=answer)
    found = combined.compute()
    alone = load("precision_at_1", tmp_path).compute(predictions=SCORES, references=ANSWERS)
    assert {name: found[name] for name in alone} == alone
    assert {"recall_at_10", "ndcg_at_10", "similarity_overlap"} <= set(found)


def test_overlap_is_one_for_alike_cosines_and_nothing_for_distant_ones(tmp_path: Path) -> None:
    module = load("similarity_overlap", tmp_path)
    generator = np.random.default_rng(0)
    apart = [[0.9, low] for low in generator.uniform(-0.1, 0.1, 200)]
    assert module.compute(predictions=apart, references=[0] * 200)["similarity_overlap"] == 0.0
    alike = generator.normal(0.3, 0.1, (2000, 2)).tolist()
    assert module.compute(predictions=alike, references=[0] * 2000)["similarity_overlap"] > 0.9


@pytest.mark.parametrize(
    ("name", "scores", "answers", "message"),
    [
        ("precision_at_1", [[0.1, 0.2]], [2], "not among the 2 candidates"),
        ("ndcg_at_k", [[0.1], [0.1, float("nan")]], [0, 0], "query 1 contain NaN"),
        ("similarity_overlap", [[3.0, 0.2]], [0], "needs cosines"),
        ("similarity_overlap", [[0.1, 0.2], [0.1]], [0, 0], "Query 1 has no wrong candidate"),
    ],
)
def test_unusable_scores_are_named(name: str, scores: list, answers: list, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path).compute(predictions=scores, references=answers)


def test_unknown_module_is_refused() -> None:
    with pytest.raises(ValueError, match="no evaluate module 'recall'; choose one of ndcg_at_k"):
        module_path("recall")
