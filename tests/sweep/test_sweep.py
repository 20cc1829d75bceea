"""`llave sweep`: each setting is trained once a seed, and the report says what the runs say."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import write_recipe
from scipy.stats import ttest_1samp, ttest_rel  # type: ignore[import-untyped]

from llave_hf.cli import main
from llave_hf.data.scenes import write_scenes
from llave_hf.errors import UserError
from llave_hf.sweep import Run, load_sweep, run_all, write_report
from llave_hf.sweep.launching import Launch
from llave_hf.sweep.running import duration
from llave_hf.sweep.statistics import estimate, paired_difference
from llave_hf.training.recipe.recipe import dump_recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ABLATION, HARDNESS = RECIPES / "ablation.yaml", RECIPES / "hardness.yaml"

# Stands for `python -m llave_hf.train RECIPE --resume_from_checkpoint`: what training leaves, without training.
STUB = """
import json, pathlib, sys, time, yaml
recipe = yaml.safe_load(pathlib.Path(sys.argv[2]).read_text())
folder = pathlib.Path(recipe["output_dir"])
print("arguments", sys.argv[1], sys.argv[3], flush=True)
(folder / "eval").mkdir(parents=True, exist_ok=True)
(folder / "checkpoint-1").mkdir(exist_ok=True)
if recipe["hardness_strength"] == 7:
    print("\\n".join(f"line {number}" for number in range(40)))
    sys.exit("the seventh strength is broken")
time.sleep(recipe["temperature"] > 0.5 and 60)
score = recipe["hardness_strength"] / 100 + 0.1 * recipe["seed"] ** 2 + (recipe["seed"] == 2) * recipe["temperature"]
means = {"zoo": score / 2, "vqa": score / 3, "in": score, "overall": score}
(folder / "trainer_state.json").write_text(json.dumps({"global_step": recipe["max_steps"]}))
numbers = dict(gap_hard=score, gap_easy=1, overlap=0.5, auc=0.5, negatives=7, effective_negatives=4, masked_share=0.25)
(folder / "telemetry.json").write_text(json.dumps({"latest": numbers}))
(folder / "recipe.yaml").write_text(pathlib.Path(sys.argv[2]).read_text())
results = {"means": means, "tasks": {"a": {"chance": 0.125, "metric": "precision_at_1"}}}
(folder / "eval" / "results.json").write_text(json.dumps(results))
"""

VARIANTS = {"none": {"hardness_strength": 0}, "some": {"hardness_strength": 5, "temperature": 0.2}}


def write_sweep(root: Path, groups: dict[str, Any] | None = None, **changes: Any) -> Path:
    write_recipe(root, eval_benchmark="benchmark.yaml")
    groups = {"strength": {"reference": "none", "variants": VARIANTS}} if groups is None else groups
    content = {"base": "recipe.yaml", "seeds": [0, 1, 2], "budget_pairs": 24, "groups": groups, **changes}
    path = root / "sweep.yaml"
    path.write_text(dump_recipe(content), encoding="utf-8")
    return path


def shared(share: object) -> dict[str, Any]:
    group = {"reference": "none", "settings": {"budget_share": share}, "variants": VARIANTS}
    return {"groups": {"strength": group}}


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "stub.py"
    script.write_text(STUB)
    monkeypatch.setattr(Launch, "command", property(lambda self: [sys.executable, str(script)]))


def sweep(*arguments: str | Path) -> int:
    try:
        main(["sweep", *(str(argument) for argument in arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_equal_recipes_are_one_run(tmp_path: Path) -> None:
    groups = {
        "strength": {"reference": "none", "variants": VARIANTS},
        "batch": {
            "reference": "eight",
            "settings": {"hardness_strength": 0},
            "variants": {"eight": None, "four": {"per_device_train_batch_size": 4}},
        },
    }
    path = write_sweep(tmp_path, groups, settings={"per_device_train_batch_size": 8})
    found = load_sweep(path, tmp_path / "runs")
    (none, _), (eight, four) = (group.variants for group in found.groups)
    assert none.runs == eight.runs
    assert [run.seed for run in none.runs] == [0, 1, 2]
    assert len(found.runs) == 3 * 3
    assert [run.seed for run in found.runs] == [0] * 3 + [1] * 3 + [2] * 3
    assert (none.runs[0].steps, four.runs[0].steps) == (24 // 8, 24 // 4)
    assert none.runs[0].recipe["max_steps"] == 3
    assert len({run.folder for run in found.runs}) == 9


def test_later_settings_win(tmp_path: Path) -> None:
    settings = {"temperature": 0.3, "hardness_strength": 4, "from_scratch.vocab_size": 400}
    path = write_sweep(tmp_path, settings=settings)
    found = load_sweep(path, tmp_path / "runs", ["--temperature", "0.4", "--hardness_strength=2"])
    none, some = (variant.runs[0].recipe for variant in found.groups[0].variants)
    assert (none["temperature"], none["hardness_strength"]) == (0.4, 0)
    assert (some["temperature"], some["hardness_strength"]) == (0.2, 5)
    assert none["from_scratch"]["vocab_size"] == 400
    assert none["from_scratch"]["text_config"]["hidden_size"] == 24


DESCRIBED = [
    {
        "path": "pairs.parquet",
        "query": "\nWhich 😀 fits “{caption}”: no, yes?\n",
        "positive": {"image": "picture", "text": "1e-5 é: {caption}"},
        "negatives": {"text": "{hard}"},
        "subsets": ["no", "1e5", "2024-01-01"],
        "weight": 1e-5,
    },
    "plain.jsonl",
]


@pytest.mark.parametrize("place", ["base", "settings", "variant"])
def test_descriptions_of_columns_reach_every_run(tmp_path: Path, place: str, stub: None) -> None:
    variants: dict[str, Any] = {"none": {"hardness_strength": 0}, "mixed": {"batch_tasks": "mixed"}}
    given: dict[str, Any] = {}
    if place == "settings":
        given = {"settings": {"train_data": DESCRIBED}}
    if place == "variant":
        variants["mixed"]["train_data"] = DESCRIBED
    file = write_sweep(tmp_path, {"data": {"reference": "none", "variants": variants}}, seeds=[0], **given)
    if place == "base":
        recipe = load_recipe(write_recipe(tmp_path, eval_benchmark="benchmark.yaml")).raw
        (tmp_path / "recipe.yaml").write_text(dump_recipe({**recipe, "train_data": DESCRIBED}), encoding="utf-8")
    planned = load_sweep(file, tmp_path / "out")
    for run in planned.runs:
        expected = DESCRIBED if place != "variant" or "mixed" in run.label else str(tmp_path / "train")
        assert run.recipe["train_data"] == expected
    if place == "base":
        assert sweep(file, "--output", tmp_path / "out") == 0
        for run in planned.runs:  # what its process reads, and by what it is known as finished
            assert load_recipe(run.beside(".yaml")).data.train_data == DESCRIBED and run.finished
        assert [run.folder for run in load_sweep(file, tmp_path / "out").runs] == [run.folder for run in planned.runs]


def test_processes_share_the_budget(tmp_path: Path) -> None:
    found = load_sweep(write_sweep(tmp_path), tmp_path, budget_pairs=48, processes=2)
    assert found.runs[0].steps == 48 // (2 * 4)
    assert found.runs[0].folder != load_sweep(write_sweep(tmp_path), tmp_path, budget_pairs=24).runs[0].folder


def test_a_variant_may_have_a_share_of_the_pairs(tmp_path: Path, stub: None) -> None:
    """As where its rows bring negatives of their own, and as many inputs are to be encoded."""
    half = {"hardness_strength": 0, "budget_share": 0.5}
    some = {"some": VARIANTS["some"]}
    groups = {
        "strength": {"reference": "none", "variants": VARIANTS},
        "encodes": {"reference": "none", "variants": {"none": VARIANTS["none"], "half": half}},
        "halves": {"reference": "half", "settings": {"budget_share": 0.5}, "variants": {"half": half, **some}},
    }
    path, output = write_sweep(tmp_path, groups), tmp_path / "runs"
    assert sweep(path, "--output", output) == 0
    found = load_sweep(path, output)
    strength, encodes, halves = ([of.runs[0] for of in group.variants] for group in found.groups)
    assert [(run.pairs, run.steps) for run in strength] == [(24, 6), (24, 6)]
    assert [(run.pairs, run.steps) for run in encodes] == [(24, 6), (12, 3)]
    assert [(run.pairs, run.steps) for run in halves] == [(12, 3), (12, 3)]
    assert encodes[1] == halves[0]
    assert all("budget_share" not in run.recipe and run.finished for run in found.runs)
    table = (output / "table.md").read_text()
    assert "`recipe.yaml`, 24 or 12 training pairs a run" in table
    assert re.search(
        r"\| training \| runs \| pairs \| steps \|.*\n.*\n\| none \| 3 \| 24 \| 6 \|.*\n\| half \| 3 \| 12 \| 3 \|",
        table,
    )
    assert table.count("| training | runs | steps |") == 2
    again = load_sweep(path, output, budget_pairs=48)
    assert {run.pairs for run in again.runs} == {48, 24}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, r"sweep\.yaml has the key 'seed', which does not exist; did you mean 'seeds'"),
        ({"seeds": [1, 1]}, "seeds is .1, 1.; name each once"),
        ({"seeds": 3}, "seeds is 3; give a list"),
        ({"budget_pairs": 0}, "budget_pairs is 0; give a whole number above 0"),
        ({"budget_pairs": 26}, r"variant 'none': a step takes 4 pairs, and budget_pairs 26 is no multiple.*give 24"),
        ({"settings": {"hardnes_strength": 1}}, r"settings has the key 'hardnes_strength'.*'hardness_strength'"),
        ({"settings": {"max_steps": 5}}, "settings sets max_steps, which the sweep itself does"),
        ({"settings": {"eval_benchmark": None}}, "eval_benchmark is missing"),
        ({"base": "absent.yaml"}, r"absent\.yaml does not exist"),
        ({"groups": {}}, "groups is missing or empty"),
        ({"groups": {"a": {"reference": "x", "variants": VARIANTS}}}, "'x'; name one of its variants: none, some"),
        ({"groups": {"a": {"variants": VARIANTS}}}, "name one of its variants"),
        ({"groups": {"a": {"reference": "x", "variants": [1]}}}, "group 'a': variants is .1.; it must be a mapping"),
        ({"groups": {"a": {"reference": "x", "variants": {True: {}}}}}, "put on, off, yes and no in quotes"),
        ({"groups": {"a": {"reference": "x", "varants": {}}}}, "group 'a' has the key 'varants'.*'variants'"),
        (
            {"groups": {"a": {"reference": "x", "variants": {"x": {"hardness_strength": "much"}}}}},
            "group 'a', variant 'x': .*hardness_strength the value 'much'; it takes float",
        ),
        (
            {"groups": {"a": {"reference": "x", "variants": {"x": {}, "y": {"hardness_strength": 1}}}}},
            "'x' and 'y' are the same recipe",
        ),
        ({"groups": {name: {"reference": "none", "variants": VARIANTS} for name in ("a b", "a-b")}}, r"a-b\.png"),
        (shared(2), "variant 'none': budget_share is 2; give a number above 0 and at most 1"),
        (shared("half"), "variant 'none': budget_share is 'half'; give a number"),
        (shared(0.3), "budget_share is 0.3, of 24 pairs 7.20; give a share that is whole"),
        (shared(0.25), "a step takes 4 pairs, and 6, its share of 24, are no multiple of it; give 16,"),
        ({"settings": {"budget_share": 0.5}}, "settings has the key 'budget_share'"),
        ({"decide": {"strenght": ["some"]}}, "decide names group 'strenght'; there are 'strength'"),
        ({"decide": {"strength": "some"}}, "group 'strength': 'some' is no list of variants; give some of .'some'."),
        ({"decide": {"strength": ["none"]}}, "names 'none'; name variants that are compared with its reference: some"),
        ({"decide": {"strength": ["some", "some"]}}, "names a variant twice"),
        ({"decide": [{"strength": ["some"]}, {"strength": ["some"]}]}, "names a variant twice"),
        (
            {"decide": [{"strength": ["some"]}, {"strength": ["none"]}]},
            "decide, family 2, group 'strength' names 'none'",
        ),
        ({"decide": ["strength"]}, "decide, family 1 is 'strength'; it must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_sweep(write_sweep(tmp_path, **changes), tmp_path / "runs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hardnes_strength", "1"], "command line has the key 'hardnes_strength'"),
        (["--seed", "1"], "command line sets seed, which the sweep itself does"),
        (["--parallel", "0"], "--parallel is 0"),
        (["--num_processes", "0"], "--num_processes is 0"),
        (["--accelerate_config", "absent.yaml"], r"absent\.yaml does not exist"),
    ],
)
def test_a_wrong_command_line_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert sweep(write_sweep(tmp_path), "--output", tmp_path / "runs", *arguments) == 2
    assert message.replace("\\", "") in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_launching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch.of(None, None).command == [sys.executable, "-m"]
    config = tmp_path / "two.yaml"
    config.write_text("num_processes: 2\n")
    assert Launch.of(None, str(config)).processes == 2
    assert str(config) in Launch.of(None, str(config)).command
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    two = Launch.of(2, None)
    assert two.command[-3:] == ["--dynamo_backend", "no", "-m"]
    assert two.environment(2, True)["OMP_NUM_THREADS"] == "2"
    assert two.environment(2, True)["ACCELERATE_USE_CPU"] == "1"
    assert "ACCELERATE_USE_CPU" not in two.environment(2, False)
    config.write_text("machine_rank: 0\n")
    with pytest.raises(UserError, match="num_processes is None"):
        Launch.of(None, str(config))


def test_a_sweep_is_run_reported_and_not_repeated(
    tmp_path: Path, stub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = write_sweep(tmp_path), tmp_path / "runs"
    assert sweep(path, "--output", output, "--parallel", "3", "--telemetry_every", "2") == 0
    said = capsys.readouterr().out
    assert re.search(r"\[[1-6]/6\] strength: some, seed 2: overall 65\.0 %", said)  # of three at a time any ends last
    assert " left" in said
    assert not list(output.rglob("checkpoint-*"))
    first = {file: file.read_text() for file in output.rglob("seed-*.log")}
    assert len(first) == 6
    assert set(first.values()) == {"arguments llave_hf.train --resume_from_checkpoint\n"}

    assert sweep(path, "--output", output, "--telemetry_every", "2") == 0
    assert "6 of 6 runs are finished already" in capsys.readouterr().out
    assert {file: file.read_text() for file in output.rglob("seed-*.log")} == first
    table = (output / "table.md").read_text()
    (output / "table.md").unlink()
    assert sweep(path, "--output", output, "--report_only") == 0  # remembers the overrides
    assert (output / "table.md").read_text() == table
    assert sweep(path, "--output", output, "--dry_run") == 0  # without them these are other runs
    assert capsys.readouterr().out.count("to do") == 6


def test_a_renamed_variant_keeps_its_runs(tmp_path: Path, stub: None) -> None:
    output = tmp_path / "runs"
    assert sweep(write_sweep(tmp_path), "--output", output) == 0
    renamed = {"weight": {"reference": "zero", "variants": {"zero": VARIANTS["none"], "five": VARIANTS["some"]}}}
    assert all(run.finished for run in load_sweep(write_sweep(tmp_path, renamed), output).runs)
    edited = load_sweep(write_sweep(tmp_path, settings={"weight_decay": 0.5}), output)
    assert not any(run.finished for run in edited.runs)
    (run, *_) = load_sweep(write_sweep(tmp_path), output).runs
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump({**run.recipe, "weight_decay": 0.5}))
    assert not run.finished


def test_the_reports_numbers(tmp_path: Path, stub: None) -> None:
    output = tmp_path / "runs"
    assert sweep(write_sweep(tmp_path), "--output", output) == 0
    none, some = np.array([0.0, 0.1, 0.4 + 0.1]), np.array([0.05, 0.15, 0.45 + 0.2])  # what the stub scores
    entry = json.loads((output / "sweep.json").read_text())["groups"]["strength"]["variants"]["some"]
    t = 4.302652729911275  # 97.5 % of Student's t with two degrees of freedom, from a printed table
    assert entry["scores"]["overall"]["mean"] == pytest.approx(some.mean())
    assert entry["scores"]["overall"]["margin"] == pytest.approx(t * some.std(ddof=1) / np.sqrt(3))
    assert entry["scores"]["vqa"]["mean"] == pytest.approx(some.mean() / 3)
    paired = some - none
    assert entry["differences"]["overall"]["mean"] == pytest.approx(paired.mean())
    assert entry["differences"]["overall"]["margin"] == pytest.approx(t * paired.std(ddof=1) / np.sqrt(3))
    assert [run["seed"] for run in entry["runs"]] == [0, 1, 2]
    assert (output / entry["runs"][0]["folder"] / "eval" / "results.json").exists()
    table = (output / "table.md").read_text()
    assert "| score | overall | in | vqa | zoo |" in table
    assert f"| some | {100 * some.mean():.1f} ± {100 * t * some.std(ddof=1) / np.sqrt(3):.1f} |" in table
    assert "| difference to none | overall |" in table
    assert "Guessing scores 12.5 % overall." in table
    assert re.search(r"\| some \| 3 \| 6 \| \d+ s \| 0\.283 \| 0\.50 \| 4 of 7 \| 25\.00 % \|", table)
    assert (output / "strength.png").read_bytes().startswith(b"\x89PNG")


def test_what_decides_is_tested_together_once_all_is_finished(tmp_path: Path, stub: None) -> None:
    """Paired t tests and Holm's procedure, by scipy and by hand."""
    weak, strong = ({"hardness_strength": of, "temperature": at} for of, at in ((1, 0.1), (5, 0.03)))
    others = {"weak": weak, "strong": strong}
    groups = {
        "a": {"reference": "none", "variants": {**VARIANTS, **others}},
        "b": {"reference": "none", "seeds": [0, 1, 2, 3], "variants": {"none": VARIANTS["none"], **others}},
    }
    decide = {"a": ["some", "strong"], "b": ["weak"]}
    path, output = write_sweep(tmp_path, groups, decide=decide, settings={"temperature": 0.02}), tmp_path / "runs"
    assert sweep(path, "--output", output) == 0
    found = json.loads((output / "sweep.json").read_text())
    raw = []
    for name, variant in (("a", "some"), ("a", "strong"), ("b", "weak")):
        runs = [found["groups"][name]["variants"][of]["runs"] for of in (variant, "none")]
        theirs, reference = ([run["scores"]["overall"] for run in of] for of in runs)
        raw.append(float(ttest_rel(theirs, reference).pvalue))
    first, second, third = np.argsort(raw)
    by_hand = np.empty(3)
    by_hand[first] = min(1, 3 * raw[first])
    by_hand[second] = max(by_hand[first], min(1, 2 * raw[second]))
    by_hand[third] = max(by_hand[second], raw[third])
    assert [entry["p_value"] for entry in found["decisions"]] == pytest.approx(list(by_hand), abs=1e-12)
    assert [entry["counts"] for entry in found["decisions"]] == [p < 0.05 for p in by_hand]
    assert {True, False} == {entry["counts"] for entry in found["decisions"]}
    table = (output / "table.md").read_text()
    assert "3 differences of `overall` decide." in table and "once all have all their seeds" not in table
    assert re.search(r"\| b: weak to none \| \+3\.0 ± 6\.4 \| 4 of 4 \| 0\.\d{4} \| (yes|no) \|", table)

    shutil.rmtree(next(output.glob("runs/*weak*/seed-3")))
    assert sweep(path, "--output", output, "--report_only") == 0
    table = (output / "table.md").read_text()
    assert "once all have all their seeds" in table
    assert "| b: weak to none |  | 3 of 4 |  |  |" in table
    assert "| a: some to none |  | 3 of 3 |  |  |" in table


def test_families_are_corrected_each_for_itself(tmp_path: Path, stub: None) -> None:
    weak = {"hardness_strength": 1, "temperature": 0.1}
    groups = {"a": {"reference": "none", "variants": {**VARIANTS, "weak": weak}}}
    settings = {"temperature": 0.02}
    both, each = ({"a": ["some", "weak"]}, [{"a": ["some"]}, {"a": ["weak"]}])
    output = tmp_path / "runs"
    assert sweep(write_sweep(tmp_path, groups, decide=both, settings=settings), "--output", output) == 0
    corrected = [of["p_value"] for of in json.loads((output / "sweep.json").read_text())["decisions"]]
    path = write_sweep(tmp_path, groups, decide=each, settings=settings)
    assert sweep(path, "--output", output, "--report_only") == 0
    found = json.loads((output / "sweep.json").read_text())["decisions"]
    assert [(of["family"], of["variant"]) for of in found] == [(1, "some"), (2, "weak")]
    alone = [of["p_value"] for of in found]
    assert min(corrected) == pytest.approx(2 * min(alone))
    assert max(corrected) == pytest.approx(max(2 * min(alone), max(alone)))
    assert (output / "table.md").read_text().count("One difference of `overall` decides.") == 2

    shutil.rmtree(next(output.glob("runs/*weak*/seed-2")))
    assert sweep(path, "--output", output, "--report_only") == 0
    found = json.loads((output / "sweep.json").read_text())["decisions"]
    assert [of["p_value"] for of in found] == [alone[0], None]  # the other family does not wait


def test_a_failing_run_does_not_stop_the_others(
    tmp_path: Path, stub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"reference": "none", "variants": {**VARIANTS, "broken": {"hardness_strength": 7}}}
    path, output = write_sweep(tmp_path, {"strength": broken}), tmp_path / "runs"
    assert sweep(path, "--output", output, "--parallel", "2") == 1
    said = capsys.readouterr().out
    assert "strength: broken, seed 1: FAILED, exit code 1" in said
    assert "    the seventh strength is broken" in said
    assert "    line 39" in said
    assert "line 20\n" not in said
    assert "3 run(s) failed: strength: broken, seed 0;" in said
    table = (output / "table.md").read_text()
    assert "6 of 9 runs" in table
    assert "No finished run: broken." in table
    assert sweep(path, "--output", output, "--dry_run") == 0
    assert capsys.readouterr().out.count("stopped") == 3


def test_a_stopped_sweep_leaves_no_run_behind(tmp_path: Path, stub: None) -> None:
    slow = {"strength": {"reference": "a", "variants": {"a": {"temperature": 0.9}, "b": {"temperature": 0.8}}}}
    found = load_sweep(write_sweep(tmp_path, slow), tmp_path / "runs")

    def interrupt(line: str) -> None:
        if line.startswith("[2/6]"):
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(found.runs, Launch(), parallel=2, say=interrupt)
    assert time.monotonic() - start < 30  # the stub would sleep for 60 s
    assert found.runs[0].beside(".json").exists()
    assert not found.runs[0].finished


def test_estimates() -> None:
    assert estimate([0.5]).margin is None
    assert not estimate([0.5]).clear
    two = estimate([1.0, 3.0])
    assert (two.mean, two.n) == (2.0, 2)
    assert two.margin == pytest.approx(12.706204736)  # t(0.975, 1) times the standard error, 1
    assert not two.clear
    assert estimate([2.0, 2.1, 1.9]).clear
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    shifted = paired_difference({0: 1.5, 1: 7.5, 2: 9.0}, {0: 1.0, 1: 7.0})
    assert shifted is not None
    assert (shifted.mean, shifted.margin, shifted.n) == (0.5, 0.0, 2)
    assert (shifted.p_value, estimate([0.0, 0.0]).p_value, estimate([0.5]).p_value) == (0.0, 1.0, None)
    numbers = [0.3, -0.1, 0.45, 0.2]
    assert estimate(numbers).p_value == pytest.approx(ttest_1samp(numbers, 0).pvalue)


@pytest.mark.parametrize("n", [3, 8])
def test_what_a_few_seeds_would_show(n: int) -> None:
    """Of many sweeps in which the true difference is as large as said, 8 in 10 have an interval without 0."""
    found = np.random.default_rng(0).normal(size=(2000, n))
    one = estimate(list(found[0]))
    assert one.detectable is not None
    shift = one.detectable / found[0].std(ddof=1)  # for a spread of 1
    clear = [estimate(list(values)).clear for values in found + shift]
    assert np.mean(clear) == pytest.approx(0.8, abs=0.03)  # three standard errors
    assert estimate([1.0]).detectable is None


def test_groups_may_have_seeds_of_their_own(tmp_path: Path, stub: None) -> None:
    few = {"reference": "none", "variants": VARIANTS}
    path = write_sweep(tmp_path, {"few": few, "many": {**few, "seeds": [4, 0]}})
    found = load_sweep(path, tmp_path / "runs")
    assert [run.seed for run in found.runs] == [0, 0, 1, 1, 2, 2, 4, 4]
    assert "2 settings, 8 runs" in str(found)
    assert sweep(path, "--output", tmp_path / "runs") == 0
    groups = json.loads((tmp_path / "runs" / "sweep.json").read_text())["groups"]
    some = groups["many"]["variants"]["some"]
    assert [run["seed"] for run in some["runs"]] == [4, 0]
    assert groups["few"]["variants"]["some"]["differences"]["overall"]["n"] == 3
    with pytest.raises(UserError, match=r"group 'a': seeds is \[1, 1\]; name each once"):
        load_sweep(write_sweep(tmp_path, {"a": {**few, "seeds": [1, 1]}}), tmp_path / "other")


def test_recorded_runs_are_not_run_again_anywhere(
    tmp_path: Path, stub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path, results = write_sweep(tmp_path), tmp_path / "kept" / "results.jsonl"
    here, there = tmp_path / "here", tmp_path / "there"
    assert sweep(path, "--output", here, "--results", results) == 0
    assert len(results.read_text().splitlines()) == 6
    capsys.readouterr()

    assert sweep(path, "--output", there, "--results", results) == 0  # another machine, to which the file has gone
    assert "6 of 6 runs are finished already" in capsys.readouterr().out
    assert not list(there.rglob("seed-*"))
    table = (there / "table.md").read_text()
    assert table == (here / "table.md").read_text()
    assert len(results.read_text().splitlines()) == 6

    lines = results.read_text().splitlines()
    results.write_text("\n".join(lines[:2]) + "\n")  # a stopped sweep
    assert sweep(path, "--output", there, "--results", results) == 0
    assert "2 of 6 runs are finished already" in capsys.readouterr().out
    assert sorted(json.loads(line)["recipe"]["seed"] for line in results.read_text().splitlines()) == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert sweep(path, "--output", there, "--results", results, "--num_processes", "2", "--dry_run") == 0
    assert capsys.readouterr().out.count("to do") == 6  # two processes sum in another order: other runs

    results.write_text(lines[0] + "\n{broken\n")
    assert sweep(path, "--output", there, "--results", results) == 2
    assert "results.jsonl, line 2 is no result of a run" in capsys.readouterr().err


def test_durations() -> None:
    assert [duration(seconds) for seconds in (45.2, 720, 12_000)] == ["45 s", "12 min", "3 h 20 min"]


def test_the_shipped_ablation() -> None:
    found = load_sweep(ABLATION, "runs")
    assert found.seeds == (0, 1, 2)
    recipes = [run.recipe for run in found.runs]
    assert {recipe["per_device_train_batch_size"] for recipe in recipes} == {32, 128, 512}
    assert {recipe["hardness_strength"] for recipe in recipes} == {0, 1, 5, 9, 15}
    for run, recipe in zip(found.runs, recipes, strict=True):
        batch = recipe["per_device_train_batch_size"]
        assert run.steps * batch == found.budget_pairs
        assert recipe["muon_learning_rate"] == pytest.approx(0.01 * (batch / 64) ** 0.5, rel=1e-3)
        assert recipe["learning_rate"] == pytest.approx(1e-3 * (batch / 64) ** 0.5, rel=1e-3)


def test_the_shipped_evidence_on_hardness() -> None:
    """Its cells differ in what they compare, and every run encodes as many inputs."""
    found = load_sweep(HARDNESS, "runs")
    first = {run.folder.parent for group in found.groups[:7] for of in group.variants for run in of.runs}
    grid = [run for run in found.runs if run.folder.parent in first]
    cells = {
        (
            recipe["per_device_train_batch_size"],
            recipe["hardness_strength"],
            recipe.get("batch_tasks"),
            *grouped(recipe),
        )
        for recipe in (run.recipe for run in grid)
    }
    groups = [(False, "mined/g8"), (True, "mined/g8"), (True, "mined/g32")]
    mixed = {(pairs, strength, "mixed", *of) for pairs in (32, 128) for strength in (0, 9) for of in groups}
    assert cells == mixed | {(128, 9, "one", *of) for of in (groups[0], groups[2])}
    assert len(first) == len(cells)
    assert found.groups[0].seeds == tuple(range(8))
    for run in found.runs:
        assert run.steps * run.recipe["per_device_train_batch_size"] == run.pairs
        inputs = 4 if run.recipe.get("use_negatives") else 2
        assert inputs * run.pairs == 2 * found.budget_pairs
    later = [run.recipe for run in found.runs if run.folder.parent not in first]
    assert {recipe.get("model") for recipe in later} == {None, "runs/teacher"}
    assert all((recipe.get("model") is None) != (recipe["from_scratch"] is None) for recipe in later)
    assert [len(family) for family in found.decides] == [6, 5, 3]  # as results/hardness.md has it


def test_the_recorded_evidence_on_hardness_is_of_the_shipped_recipe(tmp_path: Path) -> None:
    """A key that changes would have every run made again, and the documented tables would be of something else."""
    recorded = RECIPES / "results" / "hardness.jsonl"
    where = ["--media_root", "DATA", "--eval_benchmark", "DATA/benchmark.yaml"]
    found = load_sweep(HARDNESS, tmp_path, where, results=recorded)
    assert sum(run.recorded is not None for run in found.runs) == len(recorded.read_text().splitlines())
    documented = (RECIPES / "results" / "hardness.md").read_text().splitlines()
    sections = dict(part.split("\n", 1) for part in write_report(found).split("\n## ")[1:])
    whole = [
        group.name
        for group in found.groups
        if all(run.recorded is not None for variant in group.variants for run in variant.runs)
    ]
    assert len(whole) >= 10
    for name in whole:
        rows = [line for line in sections[name].splitlines() if line.startswith("|")]
        assert len(rows) > 6
        assert [row for row in rows if row not in documented] == []
    decided = [line for line in sections["What decides"].splitlines() if line.endswith(("| yes |", "| no |"))]
    assert len(decided) >= 14
    assert [row for row in decided if row not in documented] == []
    assert any("| below 0.0001 |" in row for row in decided)


def grouped(recipe: Mapping[str, Any]) -> tuple[bool, str]:
    return recipe.get("batch_groups", False), recipe["train_data"]


def real_sweep(root: Path) -> tuple[Path, Path]:
    write_scenes(root / "scenes", train_pairs=80, eval_queries=24)
    scenes = root / "scenes"
    settings = {
        "train_data": str(scenes / "train"),
        "media_root": str(scenes),
        "eval_benchmark": str(scenes / "benchmark.yaml"),
        "batch_tasks": "mixed",
        "save_steps": 4,
    }
    return write_sweep(root, settings=settings, seeds=[0, 1]), root / "runs"


def stop_after(run: Run, checkpoint: str) -> None:
    """Makes a finished run look as if it had been killed after a checkpoint."""
    for path in run.folder.iterdir():
        if path.name not in (checkpoint, "initial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
@pytest.mark.distributed
def test_real_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = real_sweep(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # alone, a run would have more of them, and round otherwise
    with monkeypatch.context() as keeping:
        keeping.setattr("llave_hf.sweep.running._clean", lambda folder: None)
        assert sweep(path, "--output", output, "--parallel", "2") == 0
    run = load_sweep(path, output).runs[0]
    assert run.steps == 6
    results = json.loads((run.folder / "eval" / "results.json").read_text())
    stop_after(run, "checkpoint-4")
    capsys.readouterr()
    assert sweep(path, "--output", output) == 0
    said = capsys.readouterr().out
    assert "3 of 4 runs are finished already" in said
    assert "6 steps, goes on from its checkpoint" in said
    assert json.loads((run.folder / "eval" / "results.json").read_text()) == results
    assert not list(run.folder.glob("checkpoint-*"))
    log = run.beside(".log").read_text()
    assert "llave_hf trains" in log
    entry = json.loads((output / "sweep.json").read_text())["groups"]["strength"]["variants"]["some"]
    assert entry["differences"]["overall"]["n"] == 2
    assert entry["telemetry"]["negatives"] > 2
    assert entry["runs"][0]["steps"] == 6
