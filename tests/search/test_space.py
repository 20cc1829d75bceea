from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from helpers import tiny_model
from search_helpers import write_folder

from llave_hf.errors import UserError
from llave_hf.search import Collection

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")
pytest.importorskip("gradio", reason="pip install 'llave-hf[app]'")

from llave_hf.search.space import write_space

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("space")
    for part in tiny_model():
        part.save_pretrained(home / "model")
    (home / "model/trainer_state.json").write_text("{}")
    collection = Collection.open(home / "db", str(home / "model"))
    collection.add(write_folder(home / "root"))
    return write_space(collection, home / "space", title='My "own" pictures')


def test_a_space_is_complete_and_tells_nothing_of_this_machine(space: Path) -> None:
    collection = Collection.open(space / "collection")
    assert collection.model_name == str(space / "model")
    hits = collection.search("red", k=50)
    assert len(hits) == 6 and all(hit.is_there and hit.path.is_relative_to(space / "files") for hit in hits)
    copied = {path.name for path in (space / "files").rglob("*") if path.is_file()}
    assert copied == {"red.png", "green.png", "blue.jpg", "grey.mp4", "notes.md"}
    assert not (space / "model/trainer_state.json").exists()
    home = str(space.parent).encode()
    assert not [path for path in space.rglob("*") if path.is_file() and home in path.read_bytes()]


def test_its_card_is_what_the_hub_reads(space: Path) -> None:
    import gradio

    head = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", (space / "README.md").read_text(), re.DOTALL)[1])  # type: ignore[index]
    assert head["title"] == 'My "own" pictures'
    assert (head["sdk"], head["sdk_version"], head["app_file"]) == ("gradio", gradio.__version__, "app.py")
    assert "3 pictures, 1 video, 2 passages" in (space / "README.md").read_text()
    assert (space / "requirements.txt").read_text().startswith("llave-hf[app]")
    compile((space / "app.py").read_text(), "app.py", "exec")


def test_a_used_folder_is_refused(space: Path) -> None:
    with pytest.raises(UserError, match="is not empty"):
        write_space(Collection.open(space / "collection"), space)


@pytest.mark.slow
def test_the_page_of_a_space_answers(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7917")
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, stdout=subprocess.DEVNULL)
    try:
        for _ in range(240):
            time.sleep(1)
            assert process.poll() is None
            try:
                page = urllib.request.urlopen("http://127.0.0.1:7917/config", timeout=20).read()
                break
            except OSError:
                continue
        assert json.loads(page)["title"] == 'My "own" pictures'
    finally:
        process.terminate()
        process.wait(30)
