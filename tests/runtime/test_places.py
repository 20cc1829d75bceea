"""A place that is not there ends every command with one line that names it, and exit code 2."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import picture, tiny_model, write_recipe, write_training_data
from safetensors.torch import save_file

from llave_hf import cli, evaluate, train
from llave_hf.cli.commands import COMMANDS
from llave_hf.errors import UserError
from llave_hf.runtime.places import check_model, hub_id, is_hub_id
from llave_hf.search import Collection

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "tests" / "fixtures" / "model" / "tiny_2x2"
VIDEOS = "--dataset msvd --protocol clip4clip"

# What may stand for a place (@ in a command below), by kind. {x} is a path in the folder that `there` makes.
WRONG = {
    "model": ("{root}/absent", "no-owner/no-model", "{root}/file.txt", "{root}/empty"),
    "folder here": ("{root}/absent", "no-owner/no-model", "{root}/file.txt"),
    "folder": ("{root}/absent", "{root}/file.txt"),
    "file": ("{root}/absent", "{root}/empty"),
    "output": ("{root}/file.txt", "{root}/file.txt/below"),
    "output file": ("{root}/empty", "{root}/file.txt/below"),
    "new": ("{root}/file.txt", "{root}/file.txt/below", "{root}/data"),
}
# Every argument of every command that is a path or an id: its kind, and a command line in which all else is there.
PLACES = {
    ("evaluate", "model"): ("model", "evaluate @ --benchmark {benchmark} --output {out}"),
    ("evaluate", "benchmark"): ("file", "evaluate {model} --benchmark @ --output {out}"),
    ("evaluate", "data"): ("folder", "evaluate {model} --benchmark {benchmark} --data @ --output {out}"),
    ("evaluate", "output"): ("output", "evaluate {model} --benchmark {benchmark} --output @"),
    ("evaluate", "cache"): ("output", "evaluate {model} --benchmark {benchmark} --output {out} --cache @"),
    ("evaluate-videos", "model"): ("model", f"evaluate-videos @ {VIDEOS} --data {{data}} --output {{out}}"),
    ("evaluate-videos", "data"): ("folder", f"evaluate-videos {{model}} {VIDEOS} --data @ --output {{out}}"),
    ("evaluate-videos", "output"): ("output", f"evaluate-videos {{model}} {VIDEOS} --data {{data}} --output @"),
    ("evaluate-videos", "cache"): (
        "output",
        f"evaluate-videos {{model}} {VIDEOS} --data {{data}} --output {{out}} --cache @",
    ),
    ("evaluate-videos", "captions"): (
        "file",
        f"evaluate-videos {{model}} {VIDEOS} --data {{data}} --output {{out}} --captions @",
    ),
    ("evaluate-videos", "videos"): (
        "folder",
        f"evaluate-videos {{model}} {VIDEOS} --data {{data}} --output {{out}} --videos @",
    ),
    ("compare", "a"): ("folder", "compare @ {results}"),
    ("compare", "b"): ("folder", "compare {results} @"),
    ("compare", "output"): ("output", "compare {results} {results} --output @"),
    ("card", "model"): ("folder here", "card @"),
    ("convert", "source"): ("model", "convert @ {out}"),
    ("convert", "folder"): ("new", "convert {published} @"),
    ("convert", "reference"): ("folder", "convert {published} {out} --reference @"),
    ("convert", "vision_tower"): ("model", "convert {published} {out} --vision-tower @"),
    ("init", "backbone"): ("model", "init --backbone @ {out}"),
    ("init", "folder"): ("new", "init --backbone {model} @"),
    ("export", "model"): ("model", "export @ {out} --format llava_onevision"),
    ("export", "folder"): ("new", "export {model} @ --format llava_onevision"),
    ("merge", "models"): ("model", "merge @ {out}"),
    ("merge", "folder"): ("new", "merge {model} {model} @"),
    ("merge", "base"): ("model", "merge {model} {model} {out} --method ties --base @"),
    ("mine", "data"): ("folder", "mine @ {model} --output {out}"),
    ("mine", "model"): ("model", "mine {data}/train @ --output {out}"),
    ("mine", "judge"): ("model", "mine {data}/train {model} --output {out} --judge @"),
    ("mine", "output"): ("output", "mine {data}/train {model} --output @"),
    ("mine", "media_root"): ("folder", "mine {data}/train {model} --output {out} --media_root @"),
    ("embed", "source"): ("folder", "embed @ --model {model} --output {out}"),
    ("embed", "model"): ("model", "embed {pictures} --model @ --output {out}"),
    ("embed", "output"): ("output", "embed {pictures} --model {model} --output @"),
    ("embed", "media_root"): ("folder", "embed {rows} --model {model} --output {out} --media_root @"),
    ("index", "folder"): ("folder", "index @ --model {model}"),
    ("index", "model"): ("model", "index {empty} --model @"),
    ("index", "output"): ("output", "index {empty} --model {model} --output @"),
    ("search", "image"): ("file", "search --image @ --collection {collection}"),
    ("search", "collection"): ("folder", "search text --model {model} --collection @"),
    ("search", "model"): ("model", "search text --collection {collection} --model @"),
    ("app", "collection"): ("folder", "app @ --model {model}"),
    ("app", "model"): ("model", "app {collection} --model @"),
    ("app", "space"): ("new", "app {collection} --space @"),
    ("data", "sources"): ("folder", "data @"),
    ("data", "media_root"): ("folder", "data {data}/train --media_root @"),
    ("data", "model"): ("model", "data {data}/train --media_root {data} --model @"),
    ("data", "output"): ("output file", "data {data}/train --media_root {data} --output @"),
    ("doctor", "recipe"): ("file", "doctor @"),
    ("doctor", "accelerate_config"): ("file", "doctor {recipe} --accelerate_config @"),
    ("sweep", "sweep"): ("file", "sweep @ --output {out} --dry_run"),
    ("sweep", "output"): ("output", "sweep {sweep} --output @ --dry_run"),
    ("sweep", "results"): ("output file", "sweep {sweep} --output {out} --results @ --dry_run"),
    ("sweep", "accelerate_config"): ("file", "sweep {sweep} --output {out} --accelerate_config @ --dry_run"),
    ("verify", "model"): ("model", "verify @"),
    ("verify", "json"): ("output file", "verify {model} --url http://127.0.0.1:9 --json @"),
    ("verify", "picture"): ("file", "verify {model} --published 0.5B --picture @"),
    ("serve", "model"): ("model", "serve @ --port 0"),
    ("push", "model"): ("folder here", "push @ me/model --dry_run"),
}
# And every other argument: a new one must be put into either table.
NO_PLACES = {
    "evaluate": {"batch_size", "subsets", "misses", "no_pictures", "self_test", "dtype"},
    "evaluate-videos": {"dataset", "protocol", "frames", "batch_size", "dtype"},
    "card": {"force", "license", "language"},
    "convert": {"dtype", "backend", "resize_order", "revision", "thorough"},
    "init": {
        *("max_length", "image_tiling", "video_newline", "unpad_rounding", "backend", "dtype", "revision"),
        "thorough",
    },
    "merge": {"method", "weights", "density", "scale", "dtype", "thorough"},
    "export": {"format", "image_tiling"},
    "mine": {
        *("subsets", "split", "num_negatives", "rank_min", "rank_max", "relative_margin", "absolute_margin"),
        *("max_score", "min_score", "index", "batch_size", "dtype", "group_size", "group_by"),
        *("judge_margin", "judge_threshold", "judge_candidates"),
    },
    "embed": {
        *("input", "id", "split", "subsets", "revision", "prompt", "prompt_name", "dimensions", "precision", "dtype"),
        *("device", "rows_per_shard", "max_tokens", "num_workers", "threads", "refresh", "strict"),
    },
    "index": {"include", "exclude", "prompt", "rebuild", "ann_from", "all_broken", "strict", "dtype"},
    "search": {"text", "k", "kind", "folder", "since", "until", "exact", "json", "dtype"},
    "app": {"title", "host", "port", "max_file_size", "dtype"},
    "data": {"subsets", "split", "streaming", "rows", "json"},
    "doctor": {"fast", "devices", "tflops"},
    "sweep": {"budget_pairs", "parallel", "num_processes", "dry_run", "report_only"},
    "verify": {
        *("backend", "dtype", "device", "published", "thorough"),
        *("url", "served", "forms", "skip", "api_key_env", "tolerance", "timeout"),
    },
    "serve": {
        *("host", "port", "served_name", "device", "dtype", "allow_fetch", "max_tokens", "max_body", "max_inputs"),
        *("max_pictures", "max_pixels", "max_queue"),
    },
    "env": {"json"},
    "push": {"repository", "private", "revision", "message", "overwrite", "device", "dry_run"},
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Places that are there, by the names that the command lines use."""
    root = tmp_path_factory.mktemp("places")
    (root / "file.txt").write_text("a text\n")
    (root / "empty").mkdir()
    for part in tiny_model():
        part.save_pretrained(root / "model")
    write_training_data(root / "data")
    row = {"qry_text": "ab", "qry_img_path": "", "tgt_text": ["xy", "z"], "tgt_img_path": ["", ""]}
    (root / "A.jsonl").write_text(json.dumps(row))
    (root / "benchmark.yaml").write_text("{name: small, source: ., tasks: {A: {meta_task: vqa, distribution: in}}}")
    (root / "results").mkdir()
    (root / "results" / "results.json").write_text(json.dumps({"tasks": {"A": {"n": 1}}}))
    save_file({"A": torch.ones(1)}, root / "results" / "per_query.safetensors")
    (root / "pictures").mkdir()
    picture().save(root / "pictures" / "one.png")
    Collection.open(root / "pictures" / ".llave_index", root / "model").add(root / "pictures")
    (root / "recipe.yaml").write_text(write_recipe(root / "data").read_text())
    return {
        "root": str(root),
        "model": str(root / "model"),
        "published": str(PUBLISHED),
        "data": str(root / "data"),
        "benchmark": str(root / "benchmark.yaml"),
        "results": str(root / "results"),
        "empty": str(root / "empty"),
        "collection": str(root / "pictures"),
        "pictures": str(root / "pictures"),
        "rows": str(root / "A.jsonl"),
        "recipe": str(root / "recipe.yaml"),
        "sweep": str(ROOT / "recipes" / "ablation.yaml"),
        "out": str(root / "out"),
    }


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("LLAVE_DEBUG", raising=False)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that stands on the screen."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("llave: error: "), error
    return error


def cases() -> Iterator[tuple[str, str]]:
    for kind, line in PLACES.values():
        for wrong in WRONG[kind]:
            yield line, wrong


@pytest.mark.parametrize(("line", "wrong"), list(cases()))
def test_a_place_that_is_not_there_is_named(
    line: str, wrong: str, there: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = wrong.format(**there)
    existed = Path(name).exists()
    with pytest.raises(SystemExit) as ended:
        cli.main(line.replace("@", wrong).format(**there).split())
    assert ended.value.code == 2
    error = told(capsys)
    assert name in error and "Errno" not in error and "Repo id" not in error
    assert Path(name).exists() == existed and not Path(there["out"]).exists(), "made a folder on the way"


def test_every_argument_of_every_command_is_in_a_table() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for command in COMMANDS:
        command.add(commands)
    found = {
        (name, action.dest)
        for name, one in commands.choices.items()
        for action in one._actions
        if action.dest not in ("help", "debug", "overrides")
    }
    listed = {(name, argument) for name, arguments in NO_PLACES.items() for argument in arguments}
    assert found == listed | set(PLACES) and not listed & set(PLACES)


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("train_data", "folder"),
        ("media_root", "folder"),
        ("output_dir", "output"),
        ("eval_benchmark", "file"),
        ("eval_data", "folder"),
        ("hardness_teacher", "model"),
        ("resume_from_checkpoint", "folder"),
        ("model", "model"),
    ],
)
def test_places_in_a_recipe_are_named(
    setting: str, kind: str, there: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in WRONG[kind]:
        name = wrong.format(**there)
        options = {"output_dir": there["out"], "eval_benchmark": there["benchmark"], setting: name}
        if setting == "hardness_teacher":
            options["hardness_source"] = "teacher"
        if setting == "model":
            options["from_scratch"] = "null"
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        with pytest.raises(SystemExit) as ended:
            train.main([there["recipe"], *words])
        assert ended.value.code == 2 and name in told(capsys)


def test_a_recipe_and_a_model_that_are_not_there(there: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in WRONG["file"]:
        with pytest.raises(SystemExit) as ended:
            train.main([wrong.format(**there)])
        assert ended.value.code == 2 and wrong.format(**there) in told(capsys)
    for wrong in WRONG["model"]:
        with pytest.raises(SystemExit) as ended:
            evaluate.main([wrong.format(**there), "--benchmark", there["benchmark"], "--output", there["out"]])
        assert ended.value.code == 2 and wrong.format(**there) in told(capsys)


def test_a_hub_id_that_cannot_be_asked_for_says_why() -> None:
    with pytest.raises(UserError, match=r"no folder no-owner/no-model here, and .* \(HF_HUB_OFFLINE is set\)"):
        check_model("no-owner/no-model")


@pytest.mark.parametrize("name", ["bert", "owner/model", "owner/model-0.5B", "owner/model.v2"])
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["/a/b", "../model", "./model", "a/b/c", "model/", "a\\b", "~/model", ""])
def test_paths_are_no_hub_ids(name: str) -> None:
    assert not is_hub_id(name)


def test_a_source_is_a_hub_id_where_nothing_here_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("owner/model") == "owner/model"
    (tmp_path / "owner" / "model").mkdir(parents=True)
    for no_id in ("owner/model", "bert", "a/b/c", "./model", "/model", None, tmp_path / "owner" / "model"):
        assert hub_id(no_id) is None
