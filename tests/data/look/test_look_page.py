from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from headless import headless_chromium
from helpers import tiny_model
from look_data import MARK, look, row, write_rows

from llave_hf.data.look.look import DataLook
from llave_hf.data.look.page import render_page, write_page
from llave_hf.data.look.prompts import ModelPrompts
from llave_hf.data.look.text import aligned, lines

HOSTILE = "<script>alert(1)</script> & </pre> <img src=x>"


class Page(HTMLParser):
    """Elements with attributes, and the text outside of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def hostile(tmp_path: Path, **options: object) -> DataLook:
    rows = [
        row(f"{MARK}{HOSTILE}", HOSTILE, qry_image_path="images/0.png", neg_text=["no"] * 4),
        row(f"{MARK}two", "b", qry_image_path="images/absent.png"),
        row("three", "yes"),
    ]
    return look(write_rows(tmp_path, "A&B", rows), **options)


def test_texts_of_the_data_are_text(tmp_path: Path) -> None:
    page = Page(render_page(hostile(tmp_path), HOSTILE))
    assert page.text.count(HOSTILE) >= 4  # the title, the whole prompt, the query, the document
    assert not page.all("script") and "A&B" in page.text
    assert "and 2 more negatives" in page.text and "absent.png does not exist" in page.text


def test_nothing_is_asked_of_the_network(tmp_path: Path) -> None:
    page = Page(render_page(hostile(tmp_path), "x"))
    assert page.all("img") and all(image["alt"] for image in page.all("img"))
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and "default-src 'none'" in policy and "script-src" not in policy


def test_tokens_stand_in_the_page_and_in_the_lines(tmp_path: Path) -> None:
    looked = hostile(tmp_path, prompts=ModelPrompts(tiny_model()[1], "tiny"))
    assert re.search(r"<image> \u00d7 \d+", Page(render_page(looked, "x")).text)
    text = "\n".join(lines(looked))
    assert re.search(r"query +<image> x \d+", text) and re.search(r"\[images/0.png\]  \d+ tokens", text)
    assert "\\n" + HOSTILE in text


def test_lines_tell_problems_first(tmp_path: Path) -> None:
    told = list(lines(hostile(tmp_path)))
    assert told[0] == (
        "3 rows of 1 task. All rows were read for texts and repeats, the same were opened for pictures and tokens."
    )
    assert "default prompt" in told[1] and told[2].startswith("PROBLEM ")


def test_columns_of_a_table_align() -> None:
    made = list(aligned([["", "n", "of"], ["query", "1,000", "a"], ["x", "5", ""]]))
    assert made == ["           n  of", "query  1,000  a", "x          5"]


def test_a_phone_shows_the_page_without_scrolling_sideways(tmp_path: Path) -> None:
    write_page(hostile(tmp_path), tmp_path / "made" / "page.html", "x" * 80)
    with headless_chromium() as browser:
        screen = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get((tmp_path / "made" / "page.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        script = "for (const i of document.images) i.loading = 'eager'; const done = arguments[0];"
        script += "Promise.all([...document.images].map(i => i.decode())).then(() => done(document.images.length))"
        assert browser.execute_async_script(script) == 1
        assert not browser.get_log("browser")
        asked = [
            entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]
        ]
        assert len([one for one in asked if "http" in one.split('"url":"')[1][:8]]) == 0
