from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llave_hf.evaluation.report.files import plot_scores, write_report
from llave_hf.evaluation.report.markdown import markdown_report

FLAWS = {"findings": {"empty_candidate": 7}, "finding_rows": {"empty_candidate": [1, 3, 5, 8, 9]}}
GROUPS = {"classification": 2, "video": 1, "audio": 1, "in": 2, "out": 2, "overall": 4}


def entry(score: float, meta_task: str, distribution: str = "in", **changes: Any) -> dict[str, Any]:
    return {
        "precision_at_1": score,
        "metric": "precision_at_1",
        "ci95": [score - 0.1, score + 0.05],
        "chance": 0.01,
        "precision_at_1_bounds": [score, score],
        "n": 1000,
        "candidates": 100,
        "duplicates": 0,
        "findings": {},
        "finding_rows": {},
        "similarities": {"positive": 0.5, "hardest_negative": 0.4, "hard": 0.3, "overlap": 0.25, "auc": None},
        "meta_task": meta_task,
        "distribution": distribution,
    } | changes


@pytest.fixture
def results() -> dict[str, Any]:
    return {
        "model": "out/tiny",
        "model_revision": "sha256:4711",
        "dtype": "bfloat16",
        "prompt": "Find: ",
        "benchmark": "small",
        "revision": "0123abc",
        "versions": {"torch": "2.15.0", "transformers": "5.23.0", "sentence-transformers": None},
        "tasks": {
            "Clips": entry(0.25, "video", "out"),
            "Zebras": entry(0.5, "classification", precision_at_1_bounds=[0.4, 0.6]),
            "Apples": entry(0.75, "classification", "out", duplicates=1234, **FLAWS),
            "Other": entry(0.2, "audio", metric="recall_at_5", recall_at_5=0.6, candidates=12.5),
        },
        "missing": [],
        "means": {"classification": 0.625, "video": 0.25, "audio": 0.6, "in": 0.55, "out": 0.5, "overall": 0.525},
        "means_ci95": {name: [0.1, 0.9] for name in GROUPS},
        "group_sizes": GROUPS,
    }


def test_report_shows_means_and_subsets_in_a_fixed_order(results: dict[str, Any]) -> None:
    lines = markdown_report(results).splitlines()
    means = [line for line in lines if line.count("|") == 5][2:]
    assert means == [
        "| classification | 2 | 62.5 | 10.0 to 90.0 |",
        "| video | 1 | 25.0 | 10.0 to 90.0 |",
        "| audio | 1 | 60.0 | 10.0 to 90.0 |",
        "| in-distribution | 2 | 55.0 | 10.0 to 90.0 |",
        "| out-of-distribution | 2 | 50.0 | 10.0 to 90.0 |",
        "| **overall** | 4 | 52.5 | 10.0 to 90.0 |",
    ]
    subsets = [line for line in lines if line.count("|") == 12][2:]
    assert [line.split(" | ")[0] for line in subsets] == ["| Zebras", "| Apples", "| Clips", "| Other"]
    zebras = "| Zebras | classification | in | precision_at_1 | 50.0 | 40.0 to 55.0 | 1.0 | 1,000 | 100 | 0.25 | - |"
    assert subsets[0] == zebras
    assert " recall_at_5 | 60.0 |" in subsets[3] and subsets[3].endswith("| 12.5 | 0.25 | - |")


def test_report_tells_findings_and_provenance(results: dict[str, Any]) -> None:
    lines = markdown_report(results).splitlines()
    findings = lines[lines.index("## Findings") + 2 : lines.index("## Provenance") - 1]
    assert len(findings) == 3
    assert findings[0].startswith("- A wrong candidate has no text, picture or video")
    assert findings[0].endswith(": Apples (7 rows: 1, 3, 5, 8, 9, …).")
    assert findings[1].endswith("counted once: Apples (1,234).")
    assert findings[2].endswith("lost or won: Zebras (40.0 to 60.0).")
    assert lines[lines.index("## Provenance") + 2 :] == [
        "- Model: out/tiny",
        "- Model revision: sha256:4711",
        "- Dtype of the weights: bfloat16",
        "- Prompt before every input: 'Find: '",
        "- Benchmark: small",
        "- Data revision: 0123abc",
        "- Versions: torch 2.15.0, transformers 5.23.0",
    ]
    assert "Not evaluated" not in "".join(lines) and "Published" not in "".join(lines)


def test_published_numbers_stand_beside_ours(results: dict[str, Any]) -> None:
    names = ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing")
    results |= {"benchmark": "mmeb", "tasks": {name: entry(0.5, "grounding") for name in names}}
    results |= {"means": {"grounding": 0.5, "overall": 0.5}, "group_sizes": {"grounding": 4, "overall": 4}}
    results["means_ci95"]["grounding"] = [0.1, 0.9]
    report = markdown_report(results)
    head = next(line for line in report.splitlines() if line.startswith("| mean over"))
    models = [cell.strip() for cell in head.split("|")][5:-1]
    ours = next(line for line in report.splitlines() if line.startswith("| grounding"))
    grounding = dict(zip(models, [cell.strip() for cell in ours.split("|")][5:-1], strict=True))
    assert (grounding["LLaVE-7B"], grounding["VLM2Vec-OV-7B"], grounding["MMRet-7B"]) == ("91.9", "87.3", "83.6")
    assert grounding["Qwen3-VL-Embedding-8B"] == "-"
    # of 36 subsets; ours are four
    assert "| **overall** | 4 | 50.0 | 10.0 to 90.0 | - | - |" in report
    assert "| RefCOCO | 50.0 | 95.4 | 92.3 | 89.8 |" in report
    assert "2503.04812" in report


def test_report_says_where_means_leave_subsets_out(results: dict[str, Any]) -> None:
    results["missing"] = ["Gone", "Lost"]
    assert "Means are over 4 of 6 subsets. Not evaluated: Gone, Lost." in markdown_report(results)


def test_report_is_the_same_from_a_file(results: dict[str, Any], tmp_path: Path) -> None:
    write_report(results, tmp_path / "new" / "folder")
    loaded = json.loads((tmp_path / "new" / "folder" / "results.json").read_text())
    assert loaded == results
    assert markdown_report(loaded) == markdown_report(results)
    assert (tmp_path / "new" / "folder" / "results.md").read_text() == markdown_report(results)


def test_files_do_not_depend_on_the_order_of_keys(results: dict[str, Any], tmp_path: Path) -> None:
    reordered = dict(reversed(results.items())) | {"tasks": dict(reversed(results["tasks"].items()))}
    write_report(results, tmp_path / "one")
    write_report(reordered, tmp_path / "two")
    for file in ("results.json", "results.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def colours_of(path: Path) -> set[tuple[int, ...]]:
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return set(map(tuple, np.unique(pixels, axis=0).tolist()))


def test_plot_draws_a_colour_a_meta_task_and_the_earlier_run_paler(results: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(results)
    del before["tasks"]["Clips"]
    plot_scores(results, tmp_path / "alone.png")
    plot_scores(results, tmp_path / "both.png", before=before)
    blue, green, orange, grey = (0x44, 0x77, 0xAA), (0x66, 0xAA, 0x77), (0xCC, 0x77, 0x44), (0xC8, 0xCC, 0xD2)
    assert {blue, green, orange} <= colours_of(tmp_path / "alone.png")
    assert grey not in colours_of(tmp_path / "alone.png")
    assert {blue, green, orange, grey} <= colours_of(tmp_path / "both.png")


def test_matplotlib_is_imported_only_for_plots() -> None:
    command = "import sys, llave_hf.evaluation; print('matplotlib' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
