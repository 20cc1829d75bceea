"""`llave push` to a Hub on loopback: what arrives, what opens from there, and what a refusal or a failure leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import picture, write_recipe, write_training_data
from huggingface_hub import ModelCard
from loopback_client import WRITE, Client
from loopback_hub import LoopbackHub
from loopback_store import Refused, Repository
from safetensors.torch import load_file, save_file

from llave_hf.hub.fingerprint.fingerprint import write_fingerprint
from llave_hf.hub.push.publication import is_published

READ, OTHER = "hf_read", "hf_other"


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub({WRITE: ["org"], READ: [], OTHER: ["elsewhere"]}) as server:
        yield server


@pytest.fixture(autouse=True)
def afresh(request: pytest.FixtureRequest) -> None:
    if "hub" in request.fixturenames:
        server = request.getfixturevalue("hub")
        server.store.repositories.clear()
        server.store.objects.clear()
        server.requests.clear()
        server.faults.clear()


# ------------------------------------------------------------------------------------------------------ what arrives


def test_a_push_is_one_commit_of_what_is_listed(client: Client, hub: LoopbackHub, folder: Path) -> None:
    done = client("push", str(folder), "org/tiny", "--message", "First")
    assert done["code"] == 0, done["output"]
    repository = hub.store.repositories["org/tiny"]
    files = repository.files()
    assert repository.messages == ["First"] and not repository.private
    expected = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    expected -= {"checkpoint-5/optimizer.pt", "notes.txt"}
    assert set(files) == expected
    assert {"fingerprint.json", "assets/training.png", "eval/results.json", ".eval_results/mmeb.yaml"} <= expected
    assert files["model.safetensors"].data == (folder / "model.safetensors").read_bytes()
    assert files["model.safetensors"].lfs
    for name in expected:
        assert re.search(rf" [kM]?B  {re.escape(name)}$", done["output"], re.MULTILINE), name
    assert "Not published: checkpoint-5/, notes.txt" in done["output"]
    assert "names no licence" not in done["output"]


def test_what_arrives_tells_of_no_folder_here(client: Client, hub: LoopbackHub, folder: Path) -> None:
    assert client("push", str(folder), "org/tiny")["code"] == 0
    files = hub.store.repositories["org/tiny"].files()
    assert not [name for name, blob in files.items() if str(folder.parent).encode() in blob.data]
    recipe = yaml.safe_load(files["recipe.yaml"].data)
    assert recipe["output_dir"] == "model" and recipe["train_data"] == [{"path": "train"}]
    assert recipe["temperature"] == 0.05
    assert json.loads(files["eval/results.json"].data)["model"] == "model"
    card = ModelCard(files["README.md"].data.decode())
    assert (card.data.license, card.data.language, card.data.model_name) == ("apache-2.0", ["en"], "tiny")
    assert card.text.count('("org/tiny")') == 3 and '("model")' not in card.text
    assert "# tiny\n" in card.text and "| hardware | 1 x CPU |" in card.text


SOURCE = """
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
place, picture, options = {place!r}, {picture!r}, {options!r}
texts = ["a dog in the snow", "What?"]
with torch.inference_mode():
    model = AutoModel.from_pretrained(place, **options).eval()
    processor = AutoProcessor.from_pretrained(place, **options)
    inputs = processor(text=[*texts, ""], images=[None, None, picture])
    result = [model(**inputs).embeddings.tolist()]
encoder = SentenceTransformer(place, device="cpu", **options)
result.append(encoder.encode([*texts, {{"image": picture}}], show_progress_bar=False).tolist())
"""


def vectors(client: Client, place: str, picture: Path, token: str | None = None, **options: Any) -> torch.Tensor:
    """(2, 3, D): through AutoModel and SentenceTransformer."""
    source = SOURCE.format(place=place, picture=str(picture), options=options)
    done = client("python", source, token=token)
    assert done["code"] == 0, done["output"]
    return torch.tensor(done["result"])


@pytest.mark.slow
def test_the_model_opens_by_its_id(client: Client, hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """With llave_hf imported: a public one by anybody, a private one and a branch by who may read it."""
    picture(50, 30).save(tmp_path / "one.png")
    for argv in (["org/tiny"], ["org/secret", "--private"], ["org/tiny", "--revision", "next"]):
        assert client("push", str(folder), *argv)["code"] == 0
    here = vectors(client, str(folder), tmp_path / "one.png")
    assert torch.allclose(here[0], here[1], atol=1e-6) and not torch.allclose(here[0, 0], here[0, 1], atol=1e-2)
    for place, options in (("org/tiny", {}), ("org/secret", {"token": WRITE}), ("org/tiny", {"revision": "next"})):
        assert torch.equal(vectors(client, place, tmp_path / "one.png", **options), here), place
    for token in (None, READ):
        refused = client("python", SOURCE.format(place="org/secret", picture="", options={}), token=token)
        assert refused["code"] == 1 and "org/secret" in refused["output"]
    verified = client("verify", "org/tiny", token=None)
    assert verified["code"] == 0 and "agrees: 8 samples" in verified["output"]


@pytest.mark.slow
def test_it_opens_without_llave_hf(client: Client, hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    picture(50, 30).save(tmp_path / "one.png")
    assert client("push", str(folder), "org/tiny")["code"] == 0
    here = vectors(client, str(folder), tmp_path / "one.png")
    options = {"trust_remote_code": True}
    source = "import sys\nsys.modules['llave_hf'] = None  # importing it is an error\n"
    source += SOURCE.format(place="org/tiny", picture=str(tmp_path / "one.png"), options=options)
    command = [sys.executable, "-c", source + "\nimport json; print(json.dumps(result))"]
    done = subprocess.run(
        command, env=hub.environment(tmp_path / "home"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.tensor(json.loads(done.stdout.splitlines()[-1])), here)
    assert any(request.endswith("/modeling_llave.py") for request in hub.requests)


def test_what_was_pushed_can_be_pushed_again(client: Client, hub: LoopbackHub, folder: Path) -> None:
    assert client("push", str(folder), "org/tiny")["code"] == 0
    repository = hub.store.repositories["org/tiny"]
    head = repository.sha("main")
    assert client("push", str(folder), "org/tiny")["code"] == 0
    assert repository.sha("main") == head  # nothing had changed
    repository.commits[head]["chart.png"] = repository.commits[head]["config.json"]  # somebody's own
    repository.commits[head]["model-00001-of-00002.safetensors"] = repository.commits[head]["config.json"]
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    save_file({**weights, name: weights[name] + 1}, folder / "model.safetensors", metadata={"format": "pt"})
    write_fingerprint(folder)
    done = client("push", str(folder), "org/tiny")
    assert done["code"] == 0, done["output"]
    files = repository.files()
    assert files["model.safetensors"].data == (folder / "model.safetensors").read_bytes()
    assert "chart.png" in files and "model-00001-of-00002.safetensors" not in files
    assert "removed  model-00001-of-00002.safetensors" in done["output"] and len(repository.messages) == 2


def test_a_branch_is_made_and_main_stays(client: Client, hub: LoopbackHub, folder: Path) -> None:
    assert client("push", str(folder), "org/tiny")["code"] == 0
    repository = hub.store.repositories["org/tiny"]
    head = repository.sha("main")
    (folder / "LICENSE").write_text("Apache-2.0")
    assert client("push", str(folder), "org/tiny", "--revision", "next")["code"] == 0
    assert repository.sha("main") == head
    assert set(repository.files("next")) - set(repository.files()) == {"LICENSE"}


# --------------------------------------------------------------------------------------------- what is refused there


def foreign(hub: LoopbackHub, **files: bytes) -> Repository:
    return hub.store.create("org/tiny", files={name.replace("__", "."): data for name, data in files.items()})


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"notes__txt": b"mine"}, "none is a model's config.json"),
        ({"config__json": b'{"model_type": "bert"}', "README__md": b"hers"}, "its model is a 'bert'"),
        ({"config__json": b'{"model_type": "llave"}'}, "neither fingerprint.json nor a card of llave_hf"),
        ({"config__json": b'{"model_type": "llave"}', "fingerprint__json": b"{}"}, "a model of another shape"),
    ],
)
def test_a_foreign_repository_is_not_overwritten_silently(
    files: dict[str, bytes], why: str, client: Client, hub: LoopbackHub, folder: Path
) -> None:
    repository = foreign(hub, **files)
    before = dict(repository.branches)
    done = client("push", str(folder), "org/tiny")
    assert done["code"] == 2 and why in done["output"] and "--overwrite" in done["output"]
    for name in files:
        named = name.replace("__", ".")
        assert (named in done["output"]) == is_published(named)
    assert repository.branches == before and not hub.store.objects
    assert not [request for request in hub.requests if request.startswith(("PUT", "DELETE"))]
    done = client("push", str(folder), "org/tiny", "--overwrite")
    assert done["code"] == 0, done["output"]
    left = repository.files()
    assert left["config.json"].data == (folder / "config.json").read_bytes()
    assert ("notes.txt" in left) == ("notes__txt" in files)


def test_private_is_not_promised_of_a_public_repository(client: Client, hub: LoopbackHub, folder: Path) -> None:
    hub.store.create("org/tiny")
    done = client("push", str(folder), "org/tiny", "--private")
    assert done["code"] == 2 and "exists and is public" in done["output"]
    assert client("push", str(folder), "org/hidden", "--private")["code"] == 0
    assert hub.store.repositories["org/hidden"].private


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "there is no token for the Hub; log in with `hf auth login`"),
        ("hf_unknown", "the Hub does not accept the token"),
        (READ, "the token may not write to org"),
        (OTHER, "the token may not write to org"),
    ],
)
def test_without_the_right_nothing_is_written(
    token: str | None, message: str, client: Client, hub: LoopbackHub, folder: Path
) -> None:
    done = client("push", str(folder), "org/tiny", token=token)
    assert done["code"] == 2 and message in done["output"], done["output"]
    assert not hub.store.repositories and not hub.store.objects
    assert len(re.findall("error", done["output"])) == 1 and "Traceback" not in done["output"]


def test_a_card_that_the_hub_refuses_makes_no_repository(client: Client, hub: LoopbackHub, folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: 2.0"))
    done = client("push", str(folder), "org/tiny")
    assert done["code"] == 2 and '"license" must be a string' in done["output"].replace("\\", "")
    assert not hub.store.repositories


# ----------------------------------------------------------------------------------------------------- failures midway

COMMIT, UPLOAD = r"/commit/", r"^/lfs/"


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/repos/create", 403, "the token may not write to org"),
        ("POST", "/preupload/", 401, "the Hub does not accept the token"),
        ("POST", "objects/batch", 403, "the token may not write to org"),
        ("PUT", UPLOAD, 403, "the token may not write to org"),
        ("POST", COMMIT, 500, "an error of its own (500)"),
        ("POST", COMMIT, 409, "something that is there already"),
        ("POST", COMMIT, 429, "asks to wait"),
        ("POST", COMMIT, 0, "cannot be reached"),
    ],
)
def test_a_failure_leaves_the_hub_as_it_was(
    method: str, path: str, status: int, message: str, client: Client, hub: LoopbackHub, folder: Path
) -> None:
    hub.fail(method, path, status=status)
    done = client("push", str(folder), "org/tiny")
    assert done["code"] == 2 and message in done["output"], done["output"]
    assert "Nothing was written." in done["output"] or "was removed again" in done["output"]
    assert not hub.store.repositories  # a new repository is gone again
    repository = hub.store.create("org/tiny")
    before = dict(repository.branches)
    for branch in ("main", "next"):
        if path != "/repos/create":
            hub.fail(method, path, status=status)
            assert client("push", str(folder), "org/tiny", "--revision", branch)["code"] == 2
            assert repository.branches == before
    assert client("push", str(folder), "org/tiny")["code"] == 0


def test_a_passing_fault_is_survived(client: Client, hub: LoopbackHub, folder: Path) -> None:
    hub.fail("PUT", UPLOAD, status=500)
    hub.fail("PUT", UPLOAD)
    assert client("push", str(folder), "org/tiny")["code"] == 0
    assert hub.store.repositories["org/tiny"].files()["config.json"].data == (folder / "config.json").read_bytes()


def test_whoever_commits_in_between_is_not_run_over(client: Client, hub: LoopbackHub, folder: Path) -> None:
    assert client("push", str(folder), "org/tiny")["code"] == 0
    repository = hub.store.repositories["org/tiny"]
    (folder / "LICENSE").write_text("Apache-2.0")

    def somebody() -> None:
        value = {"path": "theirs.txt", "content": "", "encoding": "base64"}
        lines = [{"key": "header", "value": {"summary": "Theirs"}}, {"key": "file", "value": value}]
        hub.store.commit("org/tiny", "main", lines)

    hub.fail("POST", COMMIT, meanwhile=somebody)
    done = client("push", str(folder), "org/tiny")
    assert done["code"] == 2 and "somebody has committed to org/tiny" in done["output"]
    assert "theirs.txt" in repository.files() and "LICENSE" not in repository.files()
    assert repository.messages[1:] == ["Theirs"]


def test_a_commit_whose_answer_is_lost_is_not_undone(client: Client, hub: LoopbackHub, folder: Path) -> None:
    hub.fail("POST", COMMIT, after=True)
    done = client("push", str(folder), "org/tiny")
    assert done["code"] == 2 and "look at it before you push again" in done["output"]
    assert "config.json" in hub.store.repositories["org/tiny"].files()
    assert client("push", str(folder), "org/tiny")["code"] == 0
    assert len(hub.store.repositories["org/tiny"].messages) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "the Hub at http://127.0.0.1:1 cannot be reached"),
    ],
    ids=["offline", "unreachable"],
)
def test_without_a_network_there_is_one_error(
    setting: dict[str, str], message: str, hub: LoopbackHub, folder: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "llave_hf.cli", "push", str(folder), "org/tiny"]
    environment = {**hub.environment(tmp_path / "home", WRITE), **setting}
    paths = [str(Path(__file__).parents[3]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


SILENT = """
import time
from llave_hf import cli
from llave_hf.hub.push import push, remote  # before the clock starts
remote.TIMEOUT, before, start = 0.3, remote.TIMEOUT, time.monotonic()
try:
    cli.main(["push", {folder!r}, "org/tiny"])
except SystemExit as stop:
    result = stop.code, time.monotonic() - start
remote.TIMEOUT = before
"""


def test_a_hub_that_does_not_answer_is_not_waited_for(client: Client, hub: LoopbackHub, folder: Path) -> None:
    hub.fail("GET", "/api/models/org/tiny", meanwhile=lambda: time.sleep(4))
    done = client("python", SILENT.format(folder=str(folder)))
    code, seconds = done["result"]
    assert code == 2 and seconds < 4 and "cannot be reached" in done["output"], done


def test_the_loopback_hub_checks_what_it_is_given(hub: LoopbackHub) -> None:
    """Else the tests above would prove little."""
    hub.store.create("org/tiny")
    value = {"path": "model.safetensors", "oid": "0" * 64, "size": 3}
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": value}]
    with pytest.raises(Refused, match="was not uploaded"):
        hub.store.commit("org/tiny", "main", lines)
    lines[0]["value"] = {"summary": "x", "parentCommit": "0" * 40}
    with pytest.raises(Refused, match="A commit has happened since"):
        hub.store.commit("org/tiny", "main", lines)


# --------------------------------------------------------------------------------------------------------- the trainer

TRAIN = """
from llave_hf.training.run import train
from llave_hf.training.recipe.recipe import load_recipe
trainer = train(load_recipe({recipe!r}, {overrides!r}))
trainer.push_to_hub("Again", revision="again", license="mit")
result = True
"""


@pytest.mark.slow
def test_a_recipe_publishes_its_finished_model(client: Client, hub: LoopbackHub, tmp_path: Path) -> None:
    data = write_training_data(tmp_path / "data", rows=8)
    recipe = write_recipe(data, max_steps=2, save_steps=1, push_to_hub=True, hub_model_id="org/trained")
    overrides = ["--hub_private_repo", "true", "--hub_token", WRITE]
    done = client("python", TRAIN.format(recipe=str(recipe), overrides=overrides), token=None)
    assert done["code"] == 0, done["output"]
    repository = hub.store.repositories["org/trained"]
    files = repository.files()
    assert repository.private and repository.messages == ["End of training", "Again"]
    assert {"fingerprint.json", "recipe.yaml", "assets/training.png", "model.safetensors"} <= set(files)
    assert b"card written by llave_hf" in files["README.md"].data
    assert not [name for name in files if name.startswith("checkpoint") or name.endswith((".pt", ".bin"))]
    assert not [name for name, blob in files.items() if WRITE.encode() in blob.data]
    assert WRITE not in (data / "out" / "recipe.yaml").read_text()
    again = repository.files("again")
    assert ModelCard(again["README.md"].data.decode()).data.license == "mit"
    assert again["model.safetensors"] == files["model.safetensors"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hub_model_id": "org/x", "hub_strategy": "checkpoint"}, "hub_strategy checkpoint would publish checkpoints"),
        ({"hub_model_id": "org/x", "hub_strategy": "all_checkpoints"}, "would publish checkpoints"),
        ({}, "push_to_hub needs hub_model_id: owner/name"),
        ({"hub_model_id": "org/x"}, "push_to_hub finds no token"),
    ],
)
def test_what_cannot_be_published_is_said_before_training(
    settings: dict[str, str], message: str, client: Client, hub: LoopbackHub, tmp_path: Path
) -> None:
    data = write_training_data(tmp_path / "data", rows=8)
    recipe = write_recipe(data, max_steps=2, push_to_hub=True, **settings)
    done = client("python", TRAIN.format(recipe=str(recipe), overrides=[]), token=None)
    assert done["code"] == 1 and message in done["output"]
    assert not hub.requests and not (data / "out" / "model.safetensors").exists()
