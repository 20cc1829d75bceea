"""`llave convert` on the reference folders, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from llave_hf.cli import main
from llave_hf.conversion import convert

FIXTURES = Path(__file__).parent / "fixtures" / "model"


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
