"""`llave app` in a headless browser, and what its server gives out."""

from __future__ import annotations

import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from headless import headless_chromium
from search_helpers import ColourEncoder, flat, write_folder

from llave_hf.errors import UserError
from llave_hf.search import Collection

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")
pytest.importorskip("gradio", reason="pip install 'llave-hf[app]'")

from llave_hf.search.app import MAX_TEXT, build_app, launch_options
from llave_hf.search.page import passages_html, shown_media

WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    root = write_folder(tmp_path_factory.mktemp("app") / "root")
    (root / "evil.txt").write_text("red <script>document.title = 'taken'</script> & more")
    made = Collection.open(tmp_path_factory.mktemp("db"), ColourEncoder())
    made.add(root)
    return made


@pytest.fixture(scope="module")
def address(collection: Collection) -> Iterator[str]:
    app = build_app(collection, "Colours")
    options = launch_options("127.0.0.1", None, "1mb")
    _, url, _ = app.launch(**options, prevent_thread_lock=True, quiet=True)
    yield url
    app.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless_chromium() as made:
        yield made


def wait(browser: Any, script: str) -> Any:
    """What a script returns, once that is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WAIT_SECONDS).until(lambda driver: driver.execute_script(f"return {script}"))


def captions(browser: Any) -> list[str]:
    script = "[...document.querySelectorAll('#found .caption-label')].map(label => label.innerText.trim())"
    return browser.execute_script(f"return {script}")


def open_page(browser: Any, address: str) -> Any:
    browser.get(address)
    wait(browser, "document.querySelector('#query textarea') !== null")
    return browser.find_element("css selector", "#query textarea")


def upload(browser: Any, path: Path) -> None:
    browser.find_element("css selector", "#query input[type=file]").send_keys(str(path))


@pytest.mark.slow
def test_a_text_finds_pictures_clips_and_passages(browser: Any, address: str) -> None:
    box = open_page(browser, address)
    box.send_keys("something red\n")
    wait(browser, "document.querySelectorAll('#found .caption-label').length === 4")
    assert captions(browser)[0].endswith("red.png")
    assert any("grey.mp4" in caption for caption in captions(browser))
    assert "4 found in" in browser.find_element("id", "status").text
    browser.find_element("css selector", "#kinds label:last-of-type input").click()  # texts too
    wait(browser, "document.querySelectorAll('#passages article').length === 3")
    assert "<script>" in browser.find_element("id", "passages").text  # shown, not obeyed
    assert browser.title == "Colours"


@pytest.mark.slow
def test_a_picture_finds_itself(browser: Any, address: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    box = open_page(browser, address)
    upload(browser, flat(tmp_path / "mine.png", "green"))
    wait(browser, "document.querySelector('#query .thumbnails img, #query img') !== null")
    box.send_keys(Keys.ENTER)
    wait(browser, "document.querySelectorAll('#found .caption-label').length === 4")
    assert captions(browser)[0].startswith("1.000") and captions(browser)[0].endswith("green.png")


@pytest.mark.slow
def test_a_broken_picture_is_refused_politely(browser: Any, address: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    broken = tmp_path / "mine.png"
    broken.write_bytes(b"no picture")
    box = open_page(browser, address)
    upload(browser, broken)
    wait(browser, "document.querySelector('#query img') !== null")
    box.send_keys(Keys.ENTER)
    wait(browser, "document.getElementById('status').innerText.includes('cannot be opened')")
    assert captions(browser) == []


def test_files_of_the_disk_are_not_served(address: str, collection: Collection) -> None:
    root = collection.resolve(next(iter(collection.files())))
    for path in ("/etc/passwd", root / "red.png", root / "data.json", Path(__file__)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}gradio_api/file={path}", timeout=20)
        assert refused.value.code in (403, 404), path


def ask(address: str, path: Path) -> str:
    """What the server answers to a search with a picture at a path of its own disk."""
    file = {"path": str(path), "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [{"text": "", "files": [file]}, [], "everywhere", 4]}).encode()
    call = f"{address}gradio_api/call/search"
    request = urllib.request.Request(call, body, {"Content-Type": "application/json"})
    event = json.loads(urllib.request.urlopen(request, timeout=60).read())["event_id"]
    return urllib.request.urlopen(f"{call}/{event}", timeout=60).read().decode()


def test_only_uploads_are_opened_as_queries(address: str, collection: Collection, tmp_path: Path) -> None:
    """A caller that names a picture of this machine as its own gets nothing."""
    root = collection.resolve(next(iter(collection.files())))
    uploads = Path(os.environ.get("GRADIO_TEMP_DIR", Path(tempfile.gettempdir()) / "gradio"))
    uploads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=uploads) as folder:
        assert "event: complete" in ask(address, flat(Path(folder) / "mine.png", "red"))
    answer = ask(address, root / "red.png")
    assert "event: error" in answer and "red.png" not in answer


def test_pages_bounds() -> None:
    options = launch_options("127.0.0.1", None)
    assert (options["share"], options["allowed_paths"], options["max_file_size"]) == (False, [], "20mb")


def test_long_texts_are_refused(collection: Collection) -> None:
    from llave_hf.search.app import _hits

    with pytest.raises(UserError, match=f"{MAX_TEXT} are the most"):
        _hits(collection, "a" * (MAX_TEXT + 1), [], [], "everywhere", 4)
    assert len(_hits(collection, "red", [], ["Pictures"], "everywhere", 1000)) == 3


def test_hits_leave_as_small_copies(tmp_path: Path) -> None:
    large = flat(tmp_path / "root/red.png", "red", size=2000)
    write_folder(tmp_path / "root")
    flat(large, "red", size=2000)
    collection = Collection.open(tmp_path / "db", ColourEncoder())
    collection.add(tmp_path / "root")
    hits = collection.search("red", kind=["image", "video"])
    (tmp_path / "root/it's/green.png").unlink()
    shown, missing = shown_media(hits, str(tmp_path / "cache"))
    assert missing == 1 and len(shown) == 3
    media = {caption.split("/")[-1].split()[-1]: item for item, caption in shown}
    assert media["red.png"].size == (768, 768)
    assert Path(media["grey.mp4"]).is_relative_to(tmp_path / "cache")


def test_passages_cannot_write_the_page(collection: Collection) -> None:
    html = passages_html(collection.search("red", kind="text", k=5))
    assert "<script>" not in html and "&lt;script&gt;" in html
