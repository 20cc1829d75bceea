"""What the documents say: snippets run and print what stands beside them; links, commands, files and keys exist."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from helpers import picture, tiny_model, write_video

from llave_hf.cli import build_parser
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.checks import check_kinds
from llave_hf.training.recipe.recipe import DataArguments, ModelArguments, RecipeLoader, known_keys

ROOT = Path(__file__).parents[1]
CARDS = {f"LLaVE-{size}.md" for size in ("0.5B", "2B", "7B")}  # rendered, see tests/hub/card/test_published.py
PAGES = [*sorted((ROOT / "recipes").glob("*.md")), *sorted((ROOT / "model_cards").glob("*.md"))]
PAGES = [path for path in PAGES if path.name not in CARDS]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES, *sorted((ROOT / "recipes" / "results").glob("*.md"))]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows_of(path: Path, header: str) -> Iterator[list[str]]:
    """The cells of each row of the tables whose header begins so."""
    tables = re.findall(rf"^{re.escape(header)}.*\n\|[-|: ]+\n((?:\|.*\n)+)", path.read_text(encoding="utf-8"), re.M)
    for table in tables:
        yield from ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())


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


@pytest.mark.parametrize("page", ["evaluate.md", "publish.md", "serve.md"])
def test_the_pages_snippets_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "quickstart" / "model", tmp_path / "MODEL"):
        for part in tiny_model():
            part.save_pretrained(folder)
    for name in ("dog.jpg", "before.jpg", "after.jpg"):
        picture().save(tmp_path / name)
    write_video(tmp_path / "walk.mp4", [10, 100, 200])
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in blocks(ROOT / "model_cards" / page, "python"):
        if "127.0.0.1:8000" in snippet:  # tests/serving/test_served_page.py has a server for it
            continue
        exec(compile(snippet, page, "exec"), names)
    assert names


def test_the_pitfalls_are_what_they_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in tiny_model():
        part.save_pretrained(tmp_path / "out")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("results"))
    monkeypatch.chdir(tmp_path)
    snippets = blocks(ROOT / "recipes" / "pitfalls.md", "python")
    names: dict[str, object] = {}
    for snippet in snippets:
        capsys.readouterr()
        exec(compile(snippet, "pitfalls.md", "exec"), names)
        said = re.findall(r"print\(.*\)  # (.*)$|^    # (.*)$", snippet, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == ["".join(pair) for pair in said], snippet
    assert len(snippets) > 5


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in [*re.findall(r"\]\(([^)]+)\)", text), *re.findall(r"^\[\w+\]: (\S+)$", text, re.MULTILINE)]:
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        place = path.parent / file if file else path
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_named_files_exist(path: Path) -> None:
    for place in re.findall(r"`((?:llave_hf|tests|recipes)/[\w./*-]+)`", path.read_text(encoding="utf-8")):
        assert list(ROOT.glob(place)), place


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_every_page_begins_with_a_command(path: Path) -> None:
    assert re.match(r"# .*\n\n```bash\n", path.read_text(encoding="utf-8"))


def test_commands_exist() -> None:
    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr, index]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in DOCUMENTS:
        for line in "\n".join(blocks(path, "bash")).splitlines():
            if match := re.match(r"llave ([\w-]+)", line):
                assert match[1] in commands, line
            if match := re.match(r"make ([a-z]\S*)", line):
                assert match[1] in targets, line
            for file in re.findall(r"(?:recipes|tests)/\S+\.(?:yaml|py|sh)", line):
                assert (ROOT / file).exists(), line


def test_documented_keys_exist() -> None:
    cells = [row[0] for path in PAGES for row in rows_of(path, "| key | meaning |")]
    keys = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    assert len(keys) > 45
    assert keys <= set(known_keys())
    own = {key for kind in (ModelArguments, DataArguments, LlaveTrainingArguments) for key in kind.__annotations__}
    own -= {"remove_unused_columns", "dataloader_drop_last", "ddp_find_unused_parameters"}  # transformers', see there
    assert own <= keys, "the pages in recipes/ list all keys"


def test_the_papers_keys_can_be_written_so() -> None:
    hints = {
        key: hint
        for kind in (ModelArguments, DataArguments, LlaveTrainingArguments)
        for key, hint in get_type_hints(kind).items()
    }
    page = ROOT / "recipes" / "papers.md"
    cells = [row[1] for start in ("| in the paper | recipe", "| paper | recipe") for row in rows_of(page, start)]
    settings = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    assert len(settings) > 30
    for setting in settings:
        values = yaml.load(setting, RecipeLoader)
        assert isinstance(values, dict) and set(values) <= set(known_keys()), setting
        check_kinds(values, hints, setting)


def test_the_map_names_every_room() -> None:
    """ARCHITECTURE.md's map has each room of the package, those inside it, and each file of its root; and no other."""
    package = ROOT / "llave_hf"
    (text,) = re.findall(r"^## The map\n.*?^```\n(.*?)^```", (ROOT / "ARCHITECTURE.md").read_text(), re.DOTALL | re.M)
    named, room = set(), ""
    for line in text.splitlines():
        if not line.startswith(" "):
            room = line.split()[0]
            named.add(room)
        named |= {room + inner for inner in re.findall(r"(?<![\w/])([a-z_0-9]+/)", line[1:].partition(" ")[2])}
    files = [path.relative_to(package) for path in package.rglob("*.py")]
    rooms = {f"{'/'.join(path.parts[:depth])}/" for path in files for depth in (1, 2) if len(path.parts) > depth}
    root = {path.name for path in files if len(path.parts) == 1 and path.name != "__init__.py"}
    assert rooms | root <= named
    assert all((package / place).exists() for place in named), named - rooms - root
