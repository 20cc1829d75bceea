"""What `llave push` publishes of a folder, and which folders it refuses before anything is sent."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llave_hf import cli
from llave_hf.hub.push.publication import collect, is_published


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def spoil_pickle(root: Path) -> None:
    (root / "pytorch_model.bin").write_bytes(b"anything")


def spoil_hidden_pickle(root: Path) -> None:
    (root / "initial").mkdir()
    (root / "initial" / "data.txt").write_bytes(pickle.dumps({"a": 1}))


def spoil_torch(root: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer)
    (root / "state.dat").write_bytes(buffer.getvalue())


def spoil_token(root: Path) -> None:
    with (root / "recipe.yaml").open("a") as file:
        file.write("hub_token: hf_" + "a" * 34 + "\n")


def spoil_card_path(root: Path) -> None:
    with (root / "README.md").open("a") as file:
        file.write("Trained on /home/anna/data.\n")


def spoil_config_path(root: Path) -> None:
    edit_json(root / "tokenizer_config.json", name_or_path="/mnt/disk/base")


def spoil_code(root: Path) -> None:
    (root / "pixels_llave.py").unlink()


def spoil_auto_map(root: Path) -> None:
    edit_json(root / "config.json", auto_map={})


def spoil_weights(root: Path) -> None:
    (root / "model.safetensors").unlink()


def spoil_shards(root: Path) -> None:
    spoil_weights(root)
    (root / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}})
    )


def spoil_bytes(root: Path) -> None:
    (root / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def spoil_type(root: Path) -> None:
    edit_json(root / "config.json", model_type="llava_onevision")


def spoil_adapter(root: Path) -> None:
    (root / "adapter_config.json").write_text("{}")


def spoil_layout(root: Path) -> None:
    (root / "modules.json").unlink()


def spoil_card(root: Path) -> None:
    (root / "README.md").unlink()


def spoil_front_matter(root: Path) -> None:
    (root / "README.md").write_text("---\nlibrary_name: [\n---\n")


def spoil_picture(root: Path) -> None:
    (root / "assets" / "training.png").unlink()


def spoil_fingerprint(root: Path) -> None:
    (root / "fingerprint.json").unlink()


def spoil_vectors(root: Path) -> None:
    weights = load_file(root / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    save_file({**weights, name: weights[name] * 1.5}, root / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_pickle, "pytorch_model.bin is or may hold a pickle"),
        (spoil_hidden_pickle, "initial/data.txt is or may hold a pickle"),
        (spoil_torch, "state.dat is or may hold a pickle"),
        (spoil_token, "recipe.yaml, line 6, holds a Hugging Face token"),
        (spoil_card_path, "names the local path /home/anna/data"),
        (spoil_config_path, "tokenizer_config.json: name_or_path is the local path /mnt/disk/base"),
        (spoil_code, "no pixels_llave.py, which its other files import"),
        (spoil_auto_map, "config.json has no auto_map"),
        (spoil_weights, "no model.safetensors (weights)"),
        (spoil_shards, "no model-00001-of-00001.safetensors (weights, named in model.safetensors.index.json)"),
        (spoil_bytes, "model.safetensors cannot be opened"),
        (spoil_type, "config.json is of a 'llava_onevision' model"),
        (spoil_adapter, "holds an adapter"),
        (spoil_layout, "no modules.json (layout for sentence-transformers)"),
        (spoil_card, "no README.md: `llave card` writes the card"),
        (spoil_front_matter, "front matter cannot be read"),
        (spoil_picture, "README.md shows assets/training.png, which is not published"),
        (spoil_fingerprint, "has no fingerprint.json"),
        (spoil_vectors, "does not give the vectors of its fingerprint.json"),
    ],
)
def test_a_folder_that_must_not_be_published_is_refused(
    spoil: Callable[[Path], None], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    with pytest.raises(SystemExit) as raised:
        cli.main(["push", str(folder), "org/tiny", "--dry_run"])
    error = capsys.readouterr().err
    assert raised.value.code == 2 and message in error


def test_all_that_is_wrong_is_said_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for spoil in (spoil_pickle, spoil_token, spoil_layout):
        spoil(folder)
    with pytest.raises(SystemExit):
        cli.main(["push", str(folder), "org/tiny"])
    assert capsys.readouterr().err.count("\n  - ") == 3


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "org/ti ny", "org/"])
def test_a_name_that_is_none_is_refused(name: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["push", str(saved), name])
    assert "is no name of a repository" in capsys.readouterr().err


def test_a_dry_run_asks_nobody_and_changes_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    monkeypatch.setattr("llave_hf.hub.push.push.connect", lambda token: pytest.fail("asked the Hub"))
    cli.main(["push", str(saved), "org/tiny", "--dry_run"])
    output = capsys.readouterr().out
    assert output.endswith("Dry run: nothing was sent.\n") and "org/tiny: " in output
    assert "recipe.yaml: train_data[0].path" in output
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before


def test_the_list_is_explicit() -> None:
    wanted = ("config.json", "1_Pooling/config.json", "model-00002-of-00003.safetensors", "eval/results.md")
    others = ("x/config.json", "initial/model.safetensors", "assets/a/b.png", "run.log", ".git/config", "key.json")
    assert all(map(is_published, wanted)) and not any(map(is_published, others))


def test_somebodys_own_card_is_published_as_it_is(folder: Path) -> None:
    text = (folder / "README.md").read_text().replace("<!-- card written by llave_hf", "<!-- card of mine")
    (folder / "README.md").write_text(text)
    assert collect(folder, "org/tiny").text("README.md") == text
