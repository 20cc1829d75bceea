from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llave_hf import cli, evaluation
from llave_hf.evaluation.report.page import PageOptions


class LengthEncoder:
    def encode(self, inputs: list[str], **_: Any) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[[len(text) for text in inputs]]


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    row = {"qry_text": "ab", "qry_img_path": "", "tgt_text": ["xy", "z"], "tgt_img_path": ["", ""]}
    (tmp_path / "A.jsonl").write_text(json.dumps(row))
    tasks = {name: {"meta_task": "vqa", "distribution": "in"} for name in ("A", "B")}
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "source": ".", "tasks": tasks}))
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the models that were loaded; a stand-in takes their place."""
    paths: list[str] = []

    def load(path: str) -> LengthEncoder:
        paths.append(path)
        return LengthEncoder()

    monkeypatch.setattr("llave_hf.encoding.sentence_transformer.load_encoder", load)
    monkeypatch.setattr("llave_hf.runtime.places._check_hub", lambda *_: None)  # every id is there
    monkeypatch.setattr("llave_hf.evaluation.evaluate.path_revision", lambda model: "0123abc")  # its commit there
    monkeypatch.delenv("LLAVE_DEBUG", raising=False)
    return paths


def test_evaluate_writes_results_and_prints_the_tables(
    benchmark: Path, loaded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    cli.main(["evaluate", "my/model", "--benchmark", str(benchmark), "--output", str(output), "--subsets", "A"])
    results = json.loads((output / "results.json").read_text())
    assert (results["model"], results["tasks"]["A"]["precision_at_1"], results["missing"]) == ("my/model", 1.0, ["B"])
    assert loaded == ["my/model"]
    printed = capsys.readouterr().out
    assert (output / "results.md").read_text() in printed and str(output) in printed


def test_options_reach_the_evaluation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def record(*positional: Any, **options: Any) -> None:
        seen.update(options, positional=positional)
        raise ValueError("far enough")

    monkeypatch.setattr(evaluation, "evaluate_benchmark", record)
    command = "evaluate M --benchmark mmeb --output O --data D --batch_size 7 --subsets X Y --cache C"
    command += " --misses 3 --no_pictures --dtype bfloat16"
    with pytest.raises(SystemExit):
        cli.main(command.split())
    options = {"output_dir": "O", "data": "D", "batch_size": 7, "subsets": ["X", "Y"], "cache": "C"}
    options["dtype"] = "bfloat16"
    told = "llave evaluate M --benchmark mmeb --output O --data D --subsets X Y --batch_size 7 --misses 3"
    told += " --dtype bfloat16 --no_pictures"
    page = PageOptions(misses=3, pictures=False, command=told)
    assert seen == options | {"positional": ("M", "mmeb"), "page": page}


def test_negative_misses_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "M", "--benchmark", "mmeb", "--output", "O", "--misses", "-1"])
    assert "--misses must not be negative" in capsys.readouterr().err


def test_user_errors_are_one_line_and_exit_code_2(
    benchmark: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["evaluate", "M", "--benchmark", str(benchmark), "--output", "O", "--subsets", "a"])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no subset 'a'" in error and "Traceback" not in error
    assert not loaded


def test_debug_shows_the_traceback(benchmark: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVE_DEBUG", "")  # restored after the test
    with pytest.raises(evaluation.BenchmarkError, match="no subset 'a'"):
        cli.main(["evaluate", "M", "--benchmark", str(benchmark), "--output", "O", "--subsets", "a", "--debug"])


def test_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([])
    assert raised.value.code == 2 and "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(unbuffered: str) -> None:
    """As `llave env | head -1`; a connection that breaks is one."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from llave_hf.errors import user_errors\nwith user_errors(): print('a line')"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(writer) as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=environment, check=False)
    assert (ended.returncode, ended.stderr) == (141, b"")
    command[-1] = command[-1].replace("print('a line')", "raise BrokenPipeError(32, 'Broken pipe')")
    ended = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (ended.returncode, ended.stderr) == (2, b"llave: error: [Errno 32] Broken pipe\n")


def test_ctrl_c_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate_benchmark", stop)
    monkeypatch.delenv("LLAVE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as exit:
        cli.main(["evaluate", "M", "--benchmark", "mmeb", "--output", "O"])
    assert exit.value.code == 130
    assert capsys.readouterr().err == "llave: stopped\n"
