"""What the documents say: snippets run, commands, files and keys exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import picture, tiny_model, write_video

from llave_hf.cli import build_parser
from llave_hf.training.recipe.recipe import known_keys

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "recipes/README.md", "model_cards/README.md")]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_readmes_snippets_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "quickstart" / "model"
    for part in tiny_model():
        part.save_pretrained(folder)
    picture().save(tmp_path / "dog.jpg")
    write_video(tmp_path / "walk.mp4", [10, 100, 200])
    monkeypatch.chdir(tmp_path)
    snippets = blocks(ROOT / "README.md", "python")
    assert len(snippets) == 3
    exec(compile(snippets[number], "README.md", "exec"), {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert link.startswith("http") or (path.parent / link).exists(), link


def test_commands_exist() -> None:
    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr, index]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in DOCUMENTS:
        for line in "\n".join(blocks(path, "bash")).splitlines():
            if match := re.match(r"llave (\w+)", line):
                assert match[1] in commands, line
            if match := re.match(r"make (\S+)", line):
                assert match[1] in targets, line
            for name in re.findall(r"recipes/\S+\.yaml", line):
                assert (ROOT / name).exists(), line


def test_documented_keys_exist() -> None:
    table = (ROOT / "recipes/README.md").read_text().partition("## Loss and batches")[2].partition("## Stopping")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    keys = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert len(keys) > 10
    assert set(keys) <= set(known_keys())


def test_every_module_is_on_the_map() -> None:
    """ARCHITECTURE.md names each file of the package, or the family it belongs to."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in sorted((ROOT / "llave_hf").rglob("*.py")):
        if path.name.startswith("__") or path.name.endswith("_llave.py") or {"scenes", "commands"} & {*path.parts}:
            continue
        assert path.name in text, path
