"""`llave env` says what is there and what is broken, whatever is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import transformers

import llave_hf
from llave_hf import cli
from llave_hf.runtime import environment, installed

REQUIREMENTS = [
    "torch>=2",
    'torch>=2; extra == "peft"',
    'broken-package>=1; extra == "search"',
    'absent-package>=2; extra == "qlora"',
    'torch>=99; extra == "mteb"',
    'llave-hf[search]; extra == "app"',
    'torch>=2; extra == "app"',
    'pytest>=8; extra == "test"',
]


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed and cannot be imported, one that is absent, and extras of theirs."""
    (tmp_path / "broken_package.py").write_text("print('noise')\nraise OSError('libbroken.so:\\n  no such file')\n")
    (tmp_path / "broken_package-1.5.dist-info").mkdir()
    (tmp_path / "broken_package-1.5.dist-info" / "METADATA").write_text("Name: broken-package\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "transformers", "broken-package", "absent-package"))
    monkeypatch.setattr(installed, "requires", lambda name: REQUIREMENTS)


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    cli.main(["env", *options])
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.mark.usefixtures("surroundings")
def test_json_holds_versions_processor_and_extras(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = json.loads(printed(capsys, "--json"))
    fault = "1.5, BROKEN (OSError: libbroken.so: no such file)"
    assert found["llave_hf"] == llave_hf.__version__
    assert found["packages"] == {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "broken-package": fault,
        "absent-package": "not installed",
    }
    assert found["extras"] == {
        "peft": f"torch {torch.__version__}",
        "search": f"broken-package {fault}: pip install 'llave-hf[search]'",
        "qlora": "absent-package not installed: pip install 'llave-hf[qlora]'",
        "mteb": f"torch {torch.__version__} (needed: >=99): pip install 'llave-hf[mteb]'",
        "app": f"broken-package {fault}; torch {torch.__version__}: pip install 'llave-hf[app]'",
    }
    processor = found["processor"]
    assert processor["multiplies"][0] == "float32" and set(processor["multiplies"]) <= set(environment.DTYPES)
    assert processor["name"] and f"{psutil.cpu_count()} logical" in processor["cores"] and "GB" in processor["memory"]
    assert "gloo" in found["engines"]["DDP"] and set(found["engines"]) == {"DDP", "FSDP2", "DeepSpeed"}
    assert found["devices"] and found["variables"]["OMP_NUM_THREADS"] == "1"
    assert "hf_secret" not in json.dumps(found)


@pytest.mark.usefixtures("surroundings")
def test_text_is_a_list_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    assert all(line.lstrip().startswith("- ") for line in lines)
    assert f"- torch: {torch.__version__}" in lines
    assert "- broken-package: 1.5, BROKEN (OSError: libbroken.so: no such file)" in lines
    assert "  - qlora: absent-package not installed: pip install 'llave-hf[qlora]'" in lines
    assert any(line.startswith("  - multiplies: float32") for line in lines)


@pytest.mark.usefixtures("surroundings")
def test_a_broken_torch_is_told_and_the_rest_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ImportError("libtorch_cpu.so: cannot open")

    monkeypatch.setattr("llave_hf.runtime.processor_dtypes.cpu_multiplies", broken)
    monkeypatch.setattr(torch.cuda, "device_count", broken)
    lines = printed(capsys).splitlines()
    why = "not known (ImportError: libtorch_cpu.so: cannot open)"
    assert f"  - multiplies: {why}" in lines and f"- devices: {why}" in lines
    assert "- engines:" in lines


def test_graphics_cards_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        name, total_memory, major, minor = "NVIDIA H100 80GB HBM3", 85_000_000_000, 9, 0

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(environment, "PACKAGES", ())
    monkeypatch.setattr(environment, "extras", dict)
    said = environment.environment()["devices"]
    assert said[1].startswith("cuda:1 NVIDIA H100 80GB HBM3, 85.0 GB, compute capability 9.0, ")


@pytest.mark.slow
def test_the_command_itself_imports_everything_and_prints_json_alone() -> None:
    command = [sys.executable, "-m", "llave_hf.cli", "env", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(run.stdout)
    assert set(found["packages"]) == set(environment.PACKAGES)
    assert set(found["extras"]) >= {"peft", "search", "app"}, found["extras"]
