"""`llave index` and `llave search` as they are typed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from search_helpers import ColourEncoder, write_folder

from llave_hf import cli

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "llave_hf.encoding.sentence_transformer.load_encoder", lambda path: ColourEncoder(len(str(path)))
    )
    monkeypatch.delenv("LLAVE_DEBUG", raising=False)
    return write_folder(tmp_path / "root")


def test_a_folder_is_indexed_and_searched(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["index", str(root), "--model", "some/model"])
    printed = capsys.readouterr().out
    assert "5 added" in printed and "1 .json files" in printed and "3 pictures, 1 video, 2 passages" in printed
    assert f"{root}/broken.png is no readable picture" in printed
    cli.main(["search", "red", "--collection", str(root), "--kind", "image", "-k", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].split()[0] == "1" and lines[0].endswith("root/red.png")
    cli.main(["search", "--image", str(root / "red.png"), "--collection", str(root), "--folder", "it's", "--json"])
    hits = json.loads(capsys.readouterr().out)
    assert {hit["name"] for hit in hits} == {"it's/green.png", "it's/deep/blue.jpg"}
    assert set(hits[0]) == {"path", "name", "kind", "score", "modified", "text", "start", "end"}


def test_lines_of_standard_input_are_queries(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.main(["index", str(root), "--model", "some/model"])
    capsys.readouterr()
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.stdin", io.StringIO("red\n\nblue\n"))
    cli.main(["search", "-k", "1", "--kind", "image"])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["red.png", "it's/deep/blue.jpg"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("search red --collection {root}", "there is no collection at"),
        ("index {root}", "there is no collection at"),
        ("index {root}/red.png --model m", "red.png is a file, not a folder"),
        ("index {root} --model m --prompt find=it", "a prompt is NAME=TEXT"),
    ],
)
def test_mistakes_are_one_line(root: Path, capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(command.format(root=root).split())
    error = capsys.readouterr().err.splitlines()[-1]
    assert raised.value.code == 2 and error.startswith("llave: error: ") and message in error


def test_strict_runs_fail_on_broken_files(root: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["index", str(root), "--model", "some/model", "--strict"])
    assert raised.value.code == 1
