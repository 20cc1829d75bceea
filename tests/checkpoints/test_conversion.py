"""`llave convert` on the reference folders, as a user runs it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from llave_hf import LlaveModel
from llave_hf.checkpoints.conversion import convert
from llave_hf.checkpoints.llava_qwen.modeling import KEY_MAPPING
from llave_hf.cli import main

FIXTURES = Path(__file__).parents[1] / "fixtures" / "model"


def test_convert_writes_a_native_folder_and_prints_the_parity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = FIXTURES / "tiny_6x6", tmp_path / "out"
    main(["convert", str(source), str(target), "--reference", str(source)])
    report = capsys.readouterr().out
    assert "- AutoModel: vectors of 8 inputs differ by at most" in report
    assert "| all | 18 | 18 of 18 equal | 14 of 14 equal |" in report
    assert "tokens: <image> 512, <video> 513, in spare rows of 576" in report
    assert "Differs from the research code on purpose" in report
    assert (target / "fingerprint.json").exists()
    assert json.loads((target / "config.json").read_text())["model_type"] == "llave"
    with torch.no_grad():
        made = AutoProcessor.from_pretrained(target)(text=["A cat and a dog"])
        vector = AutoModel.from_pretrained(target)(**made).embeddings[0]
    assert torch.allclose(vector, load_file(source / "reference.safetensors")["text_short/row0/embedding"], atol=5e-6)


def test_a_difference_from_the_reference_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(FIXTURES / "tiny_6x6", reference)
    tensors = load_file(reference / "reference.safetensors")
    tensors["text_short/row0/embedding"] += 2e-5
    save_file(tensors, reference / "reference.safetensors")
    with pytest.raises(SystemExit) as exit:
        main(["convert", str(FIXTURES / "tiny_6x6"), str(tmp_path / "out"), "--reference", str(reference)])
    assert exit.value.code == 1
    assert "- text_short: token ids equal, pixels not recorded, vector 2.0e-05" in capsys.readouterr().out


def test_settings_go_into_the_folder(tmp_path: Path) -> None:
    report = convert(
        FIXTURES / "tiny_6x6",
        tmp_path,
        dtype="bfloat16",
        settings={"backend": "torchvision", "resize_order": "installed"},
    )
    assert report.ok
    assert not report.exact_pixels
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert (processor.backend, processor.resize_order) == ("torchvision", "installed")
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_what_cannot_be_converted_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    source, new = str(FIXTURES / "tiny_6x6"), str(tmp_path / "new")
    cases = [
        ([source, str(tmp_path / "used")], "is not empty; name a new folder"),
        ([str(tmp_path / "bert"), new], "is a 'bert' model, not a published LLaVE checkpoint"),
        ([source, new, "--reference", str(tmp_path)], "is no reference folder"),
        ([str(tmp_path / "nowhere"), new], "nowhere"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit) as exit:
            main(["convert", *arguments])
        assert exit.value.code == 2
        assert message in capsys.readouterr().err
    assert not Path(new).exists()


@pytest.fixture
def halved(tmp_path: Path) -> Path:
    """A published checkpoint in bfloat16."""
    folder = tmp_path / "source"
    shutil.copytree(FIXTURES / "tiny_6x6", folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "torch_dtype": "bfloat16"}))
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("native", [False, True])
def test_weights_stay_as_published_to_the_bit(
    native: bool, halved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types = {torch.float32, torch.bfloat16} if native else {torch.float32}
    monkeypatch.setattr("llave_hf.runtime.processor_dtypes.native_dtypes", lambda: frozenset(types))
    main(["convert", str(halved), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "- weights: equal to the bit" in printed
    assert "parameters, bfloat16;" in printed
    written, published = load_file(tmp_path / "out" / "model.safetensors"), load_file(halved / "model.safetensors")
    checked = 0
    for name, tensor in published.items():
        for pattern, replacement in KEY_MAPPING.items():
            new, changed = re.subn(pattern, replacement, name)
            if changed:
                assert written[new].dtype == torch.bfloat16 and torch.equal(written[new], tensor)
                checked += 1
                break
    assert checked == len(written)
    assert json.loads((tmp_path / "out" / "fingerprint.json").read_text())["dtype"] == "float32"


def test_a_weight_that_changes_on_the_way_is_found(
    halved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By one unit in the last place, which no vector of a few inputs need show."""
    save = LlaveModel.save_pretrained

    def saved(self: LlaveModel, folder: Path, **options: Any) -> None:
        save(self, folder, **options)
        file = Path(folder) / "model.safetensors"
        tensors = load_file(file)
        tensors["backbone.language_model.embed_tokens.weight"].view(torch.int16)[500, 0] ^= 1
        save_file(tensors, file, metadata={"format": "pt"})

    monkeypatch.setattr(LlaveModel, "save_pretrained", saved)
    with pytest.raises(SystemExit) as exit:
        main(["convert", str(halved), str(tmp_path / "out")])
    assert exit.value.code == 1
    assert "- weights: DIFFER in backbone.language_model.embed_tokens.weight (1)" in capsys.readouterr().out
    assert not (tmp_path / "out" / "fingerprint.json").exists()


@pytest.mark.parametrize(("thorough", "forwards"), [(False, 2 + 5 + 2), (True, 3 * 8)])
def test_nothing_is_computed_more_often_than_it_is_opened(
    thorough: bool, forwards: int, halved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the source, of the folder for comparison and fingerprint at once, and through sentence-transformers."""
    monkeypatch.setattr("llave_hf.hub.fingerprint.samples.LARGE", 0)
    made: list[torch.dtype] = []
    whole = LlaveModel._embed

    def counted(self: LlaveModel, *positional: Any, **named: Any) -> Any:
        made.append(self.dtype)
        return whole(self, *positional, **named)

    monkeypatch.setattr(LlaveModel, "_embed", counted)
    assert convert(halved, tmp_path / "out", thorough=thorough).ok
    assert made == [torch.float32] * forwards
