from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_helpers import RecordingEncoder, make_row, write_benchmark
from safetensors.numpy import save

from llave_hf import cli
from llave_hf.errors import UserError
from llave_hf.evaluation import evaluate_benchmark
from llave_hf.evaluation.comparison import compare_results
from llave_hf.evaluation.scoring import resampling

WORDS = [f"word {number}" for number in range(60)]


def skilled(share: float, seed: int = 0) -> RecordingEncoder:
    """Finds the answer of this share of the queries "find WORD"; the others' vectors are noise."""
    generator = np.random.default_rng(seed)
    known = {word: generator.random() < share for word in WORDS}

    def vector(text: str) -> np.ndarray:
        word = text.removeprefix("find ")
        if word == text or known.get(word):
            return np.random.default_rng(list(word.encode())).standard_normal(16)
        return generator.standard_normal(16)

    return RecordingEncoder(vector)


def rows(offset: int = 0, count: int = 60) -> list[dict]:
    return [
        make_row(f"find {WORDS[n]}", [WORDS[n], *(WORDS[(n + m + offset) % 60] for m in range(1, 8))])
        for n in range(count)
    ]


def evaluate(model: Any, path: Path, output: Path, **options: Any) -> Path:
    evaluate_benchmark(model, path, output_dir=output, show_progress=False, model_name=output.name, **options)
    return output


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.evaluation.report.files.plot_scores", lambda *_, **__: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_benchmark(tmp_path, {"Easy": rows(), "Hard": rows(9)}, {"Hard": {"metric": "ndcg_at_5"}})


def test_large_difference_is_real_and_the_same_model_is_not(path: Path, tmp_path: Path) -> None:
    weak, strong = evaluate(skilled(0.2), path, tmp_path / "weak"), evaluate(skilled(0.9), path, tmp_path / "strong")
    found = compare_results(weak, strong)
    assert list(found.tasks) == ["Easy", "Hard"] and found.only_in_one == []
    for difference in (*found.tasks.values(), found.overall):
        assert difference.real and difference.ci95[0] > 0.3 and difference.ci95[0] < difference.difference
        assert difference.difference == pytest.approx(difference.b - difference.a)
    assert found.overall.difference == pytest.approx(np.mean([d.difference for d in found.tasks.values()]))
    back = compare_results(strong, weak)
    assert back.overall.difference == -found.overall.difference and back.overall.p == found.overall.p
    same = compare_results(weak, weak)
    assert not any(d.real for d in (*same.tasks.values(), same.overall))
    assert same.overall.p == 1.0 and same.overall.ci95 == (0.0, 0.0)


def test_command_prints_the_table_and_writes_it(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(skilled(0.2), path, tmp_path / "weak", subsets=["Easy"])
    evaluate(skilled(0.9), path, tmp_path / "strong")
    cli.main(["compare", str(tmp_path / "weak"), str(tmp_path / "strong"), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    table = (tmp_path / "out" / "compare.md").read_text()
    assert table in printed and "| Easy | precision_at_1 |" in table and "B is better" in table
    assert "only one has it: Hard" in table
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["tasks"]["Easy"]["real"] and (content["a"], content["b"]) == ("weak", "strong")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "of benchmark small"),
        ({"metric": "recall_at_3"}, "Easy is measured by another metric .*precision_at_1, recall_at_3"),
        ({"rows": rows(1)}, "Easy is of another data revision"),
        ({"options": {"Easy": {"pool": "global"}}}, "Easy is over another number of candidates"),
    ],
)
def test_what_is_not_the_same_test_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    keys = {key: value for key, value in change.items() if key in ("name", "metric")}
    (tmp_path / "changed").mkdir()
    first = write_benchmark(tmp_path, {"Easy": rows()})
    second = write_benchmark(tmp_path / "changed", {"Easy": change.get("rows", rows())}, change.get("options"), **keys)
    a = evaluate(skilled(0.5), first, tmp_path / "a")
    b = evaluate(skilled(0.5), second, tmp_path / "b")
    with pytest.raises(UserError, match=message):
        compare_results(a, b)


def test_folder_without_results_and_disjoint_subsets_are_refused(path: Path, tmp_path: Path) -> None:
    a = evaluate(skilled(0.5), path, tmp_path / "a", subsets=["Easy"])
    b = evaluate(skilled(0.5), path, tmp_path / "b", subsets=["Hard"])
    with pytest.raises(UserError, match="no subset in common"):
        compare_results(a, b)
    (b / "per_query.safetensors").unlink()
    with pytest.raises(UserError, match=r"b holds no per_query.safetensors"):
        compare_results(a, b)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("per_query.safetensors", b"short", "b holds no evaluation that can be read .*run it anew"),
        ("per_query.safetensors", save({"Easy": np.zeros(3)}), "b: per_query.safetensors has not the subsets and"),
        ("per_query.safetensors", save({"Other": np.zeros(60)}), "b: per_query.safetensors has not the subsets and"),
        ("results.json", b"{", "b holds no evaluation that can be read"),
        ("results.json", b"{}", "b holds no evaluation that can be read"),
    ],
    ids=["cut off", "other queries", "other subsets", "no JSON", "no results"],
)
def test_files_that_do_not_belong_together_are_refused(
    path: Path, tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    a, b = (evaluate(skilled(0.5), path, tmp_path / name, subsets=["Easy"]) for name in "ab")
    (b / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        compare_results(a, b)


def test_sign_flips_are_those_of_coins_query_by_query() -> None:
    differences = np.array([1.0, -0.5, 0.5, 0.0, 1.0, 1.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    exact = np.abs(signs.T @ differences / 6) >= differences.mean() - 1e-12
    drawn = resampling.sign_flip_means(differences, resamples=40_000)
    assert resampling.p_value(differences.mean(), drawn) == pytest.approx(exact.mean(), abs=0.01)
    assert drawn.mean() == pytest.approx(0.0, abs=0.01)


def test_p_values_of_equal_models_are_uniform_over_subsets_and_their_mean() -> None:
    """Subsets that share their draws would make the mean over subsets look as uncertain as one of them."""
    generator = np.random.default_rng(0)
    small = 0
    for _ in range(100):
        groups = [generator.standard_normal(40) for _ in range(4)]
        drawn = np.mean([resampling.sign_flip_means(g, resamples=500, seed=n) for n, g in enumerate(groups)], axis=0)
        small += resampling.p_value(float(np.mean([g.mean() for g in groups])), drawn) < 0.2
    assert 8 <= small <= 34  # 20 expected


def test_holm_is_step_down_and_in_the_order_given() -> None:
    assert resampling.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert resampling.holm([0.6, 0.9]) == [1.0, 1.0]


def test_bootstrap_of_means_is_narrower_than_of_one_group() -> None:
    groups = [np.random.default_rng(seed).random(50) for seed in range(9)]
    low, high = resampling.bootstrap_interval_of_means(groups)
    one = resampling.bootstrap_interval(groups[0])
    assert low < np.mean([group.mean() for group in groups]) < high
    assert (high - low) == pytest.approx((one[1] - one[0]) / 3, rel=0.25)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(30)
    expected = resampling.bootstrap_interval(values)
    monkeypatch.setattr(resampling, "_DRAWN_AT_ONCE", 90)
    assert resampling.bootstrap_interval(values) == pytest.approx(expected, rel=1e-12)
