"""What `llave evaluate` says of what it wrote, and what it and `llave evaluate-videos` check before they begin."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_helpers import constant_encoder, make_row, write_benchmark

from llave_hf import cli


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.encoding.sentence_transformer.load_encoder", lambda path: constant_encoder())
    monkeypatch.setattr("llave_hf.runtime.places._check_hub", lambda *_: None)  # my/model is there
    monkeypatch.setattr("llave_hf.evaluation.evaluate.path_revision", lambda model: "0123abc")  # its commit there


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("keys", [{}, {"leaderboard": True}])
def test_last_line_names_the_files(keys: dict[str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = write_benchmark(tmp_path, {"A": [make_row("a", ["a", "b"])]}, **keys)
    output = tmp_path / "out"
    cli.main(["evaluate", "my/model", "--benchmark", str(benchmark), "--output", str(output)])
    line = capsys.readouterr().out.splitlines()[-1]
    written, _, files = line.partition(": ")
    assert written == f"Written to {output}"
    assert sorted(files.split(", ")) == sorted(file.name for file in output.iterdir())
    assert ("leaderboard.json" in files) == bool(keys)


@pytest.fixture(params=["evaluate", "evaluate-videos"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Without model and output; the data are not there, so an error of the data says that these were read."""
    if request.param == "evaluate":
        return ["evaluate", "--benchmark", str(tmp_path / "none.yaml")]
    return ["evaluate-videos", "--dataset", "msvd", "--protocol", "clip4clip", "--data", str(tmp_path / "none")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["my/model", "--output", "{}/file"], "The output folder {}/file is no folder to write to (Not a directory)"),
        (["my/model", "--output", "{}/file/below"], "The output folder {}/file/below is no folder to write to"),
        (["my/model", "--output", "{}/out", "--cache", "{}/file"], "The cache {}/file is no folder to write to"),
        (["{}/gone", "--output", "{}/out"], "There is no model folder {}/gone: check the path"),
    ],
)
def test_places_are_checked_before_anything_is_read(
    command: list[str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        cli.main([*command, *(option.format(tmp_path) for option in options)])
    assert message.format(tmp_path) in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_model_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(path: str) -> None:
        raise OSError("We couldn't connect")

    monkeypatch.setattr("llave_hf.encoding.sentence_transformer.load_encoder", offline)
    monkeypatch.setattr("llave_hf.runtime.places._check_hub", lambda *_: None)  # my/model is there
    benchmark = write_benchmark(tmp_path, {"A": [make_row("a", ["a", "b"])]})
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "my/model", "--benchmark", str(benchmark), "--output", str(tmp_path / "out")])
    assert "The model my/model cannot be opened: We couldn't connect" in capsys.readouterr().err
