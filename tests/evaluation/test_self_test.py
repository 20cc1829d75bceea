from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_helpers import make_row, write_benchmark

from llave_hf import cli
from llave_hf.evaluation import self_test
from llave_hf.evaluation.scoring import metrics

ROWS = [
    make_row(f"query {n}", [f"word {n % 7}", *(f"word {n % 7 + m}" for m in range(1, 4 + n % 3))]) for n in range(80)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    same = [make_row(word, [word, "other", "third"]) for word in ("a", "b", "c", "d")]
    options = {"Global": {"pool": "global", "metric": "ndcg_at_5"}}
    return write_benchmark(tmp_path, {"Local": ROWS, "Global": ROWS, "QueryIsAnswer": same}, options)


def test_scorer_passes_on_rows_of_every_kind(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["evaluate", "--self_test", "--benchmark", str(path)])
    printed = capsys.readouterr().out
    assert "passed" in printed and printed.count("\n") == 5


def test_scorer_whose_answer_wins_ties_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The usual argmax: the answer is listed first and wins every tie."""
    rank_tasks = self_test.rank_tasks

    def winning(*arguments: object) -> list[metrics.AnswerRanks]:
        return [metrics.without_ties(ranks, won=True) for ranks in rank_tasks(*arguments)]  # type: ignore[arg-type]

    monkeypatch.setattr(self_test, "rank_tasks", winning)
    with pytest.raises(SystemExit) as raised:
        cli.main(["evaluate", "--self_test", "--benchmark", str(path), "--subsets", "Local"])
    assert raised.value.code == 1
    assert "100.00" in (printed := capsys.readouterr().out) and "FAILED on Local" in printed


def test_random_vectors_that_know_the_answer_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llave_hf.evaluation.benchmark.collection import collect_inputs
    from llave_hf.evaluation.benchmark.loading import load_benchmark
    from llave_hf.evaluation.benchmark.rows import RowReader

    benchmark = load_benchmark(path)
    inputs, tasks = collect_inputs(benchmark, RowReader(benchmark))
    assert all(test.passed for test in self_test.self_test(tasks, len(inputs)))
    scores = self_test._scores

    def leaking(apart: list, vectors: object) -> list[tuple[float, float]]:
        return [(chance, score if score == chance else 0.5 + score / 2) for chance, score in scores(apart, vectors)]  # type: ignore[arg-type]

    monkeypatch.setattr(self_test, "_scores", leaking)
    assert not any(test.passed for test in self_test.self_test(tasks[:2], len(inputs)))


def test_model_and_output_are_needed_without_self_test(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, missing in (([], "MODEL"), (["m"], "--output DIR")):
        with pytest.raises(SystemExit) as raised:
            cli.main(["evaluate", *arguments, "--benchmark", str(path)])
        assert raised.value.code == 2 and f"{missing} is missing" in capsys.readouterr().err
