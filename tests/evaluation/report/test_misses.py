from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_helpers import RecordingEncoder, constant_encoder, make_row, write_benchmark
from report_helpers import scored

from llave_hf.evaluation.report.misses import Listed, Miss, find_misses, missed_queries

# cosines with the query (1, 0)
COSINES = {"right": 0.5, "good": 0.9, "same": 0.9, "bad": -0.2, "tied": 0.5, "worst": -0.6, "last": -0.8, "off": -0.9}


def by_cosine() -> RecordingEncoder:
    def vector(text: str) -> list[float]:
        cosine = COSINES.get(text, 1.0)
        return [cosine, np.sqrt(1 - cosine**2)]

    return RecordingEncoder(vector)


def misses_of(tmp_path: Path, rows: list[list[str]], most: int = 20, pool: str = "local") -> list[Miss]:
    path = write_benchmark(
        tmp_path, {"A": [make_row(f"query {n}", texts) for n, texts in enumerate(rows)]}, {"A": {"pool": pool}}
    )
    results, inputs = scored(path, by_cosine())
    found = find_misses(results.tasks[0], most)
    names.clear()
    names.update({number: sample.text for number, sample in enumerate(inputs.samples)})
    return found


names: dict[int, str] = {}


def described(entries: tuple[Listed, ...]) -> list[tuple[str, int, int, bool]]:
    return [(names[entry.number], entry.first, entry.last, entry.answer) for entry in entries]


def test_top_five_with_ranks_and_ties(tmp_path: Path) -> None:
    (miss,) = misses_of(tmp_path, [["right", "off", "bad", "good", "tied", "same", "worst", "last"]])
    assert described(miss.answers) == [("right", 3, 4, True)]
    top = described(miss.top)
    assert sorted(top[:2]) == [("good", 1, 2, False), ("same", 1, 2, False)]
    assert top[2:] == [("tied", 3, 4, False), ("right", 3, 4, True), ("bad", 5, 5, False)]
    assert miss.gap == pytest.approx(0.4, abs=1e-6)
    assert [entry.cosine for entry in miss.top] == pytest.approx([0.9, 0.9, 0.5, 0.5, -0.2], abs=1e-6)


def test_the_widest_gaps_come_first_and_hits_are_none(tmp_path: Path) -> None:
    rows = [["good", "bad"], ["right", "good"], ["bad", "good"], ["tied", "right"], ["worst", "right"]]
    assert [miss.row for miss in misses_of(tmp_path / "all", rows)] == [2, 4, 1, 3]
    assert [miss.row for miss in misses_of(tmp_path / "two", rows, most=2)] == [2, 4]
    assert misses_of(tmp_path / "none", rows, most=0) == []


@pytest.mark.parametrize("pool", ["local", "global"])
def test_constant_encoder_has_no_hits_and_no_order(tmp_path: Path, pool: str) -> None:
    rows = [make_row(f"query {n}", [f"word {(n + m) % 9}" for m in range(9)]) for n in range(4)]
    path = write_benchmark(tmp_path, {"A": rows}, {"A": {"pool": pool}})
    results, _ = scored(path, constant_encoder())
    (result,) = results.tasks
    assert missed_queries(result.ranks).tolist() == [0, 1, 2, 3]
    for miss in find_misses(result, 10):
        assert all((entry.first, entry.last) == (1, 9) for entry in (*miss.top, *miss.answers))
        assert [entry.answer for entry in miss.top] == [False] * 5


def test_a_list_shorter_than_five_is_shown_whole(tmp_path: Path) -> None:
    (miss,) = misses_of(tmp_path, [["bad", "good", "tied"]])
    assert described(miss.top) == [("good", 1, 1, False), ("tied", 2, 2, False), ("bad", 3, 3, True)]
